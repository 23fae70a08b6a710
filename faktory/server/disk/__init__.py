"""The embedded server's file: what `--data` adds. Without it nothing here is imported.

The file mirrors the store: each change of a queue or set is recorded, and at the end of a turn of
the loop all of them are written in one commit, before the turn's answers are sent.
"""
