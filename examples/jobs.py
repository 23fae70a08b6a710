"""Two jobs of a program: a function and a class."""

import faktory


@faktory.job(queue="images", retry=3)
def resize(image: str, width: int = 200) -> None:
    print(f"{image} is now {width} pixels wide", flush=True)


class Greet(faktory.Job):
    faktory_options = {"queue": "mail", "backtrace": 10}

    def perform(self, name: str, languages: list[str]) -> None:
        print(f"hello {name}, in {' and '.join(languages)} ({self.jid})", flush=True)
