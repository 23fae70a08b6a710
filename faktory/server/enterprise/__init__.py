"""The features of Faktory Enterprise; an approximation.

There was no licence to compare with. The features follow the public documentation (the pages Ent-*
of Faktory's wiki) and what the tests of other clients saw the real server do.
"""
