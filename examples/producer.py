"""Push jobs to the server in FAKTORY_URL, or on localhost: python examples/producer.py"""

from jobs import Greet, resize

print("one:", resize.perform_async("cat.png", width=100))
print("with other options:", resize.set(retry=0).perform_async("dog.png"))
print("in a second:", Greet.perform_in(1, "Ada", ["English", "français"]))
print("many:", len(resize.perform_bulk([(f"photo-{n}.png", 50) for n in range(100)])))
