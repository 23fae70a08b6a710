"""What Faktory Enterprise adds to the server; an approximation.

There was no licence to compare with: it follows the public documentation (the pages Ent-* of
Faktory's wiki) and what the tests of other clients saw the real server do.
"""
