"""The settings of the project; variables say what differs between tests.

DATABASE: the file of SQLite, or the settings of a database as JSON. OPTIONS: those of the default
backend, as JSON. QUEUES: more of its queues, a comma before each. APPS: more apps, with spaces.
"""

import json
import os
from importlib.util import find_spec

import django

SECRET_KEY = "for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    # First, so that it finds the jobs of apps that are loaded after it.
    "faktory.contrib.django",
    "shop",
    "mail",
    *os.environ.get("APPS", "").split(),
]
if django.VERSION < (6, 0) and find_spec("django_tasks"):
    INSTALLED_APPS.append("django_tasks")

_database = os.environ.get("DATABASE", ":memory:")
DATABASES = {
    "default": json.loads(_database)
    if _database.startswith("{")
    else {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _database,
        "CONN_MAX_AGE": None,
        "OPTIONS": {"timeout": 30},
    },
    "archive": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{_database}.archive"}
    if _database.startswith("/")
    else {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
}

_BACKEND = "faktory.contrib.django.FaktoryBackend"
_DUMMY = (
    "django.tasks.backends.dummy.DummyBackend"
    if django.VERSION >= (6, 0)
    else "django_tasks.backends.dummy.DummyBackend"
)
TASKS = {
    "default": {
        "BACKEND": _BACKEND,
        "QUEUES": ["default", "mail", "bulk", *os.environ.get("QUEUES", "").split(",")[1:]],
        "OPTIONS": json.loads(os.environ.get("OPTIONS", "{}")),
    },
    "commit": {"BACKEND": _BACKEND, "OPTIONS": {"enqueue_on_commit": "default"}},
    "archive": {"BACKEND": _BACKEND, "OPTIONS": {"enqueue_on_commit": "archive"}},
    "priority": {
        "BACKEND": _BACKEND,
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"priority_queues": {100: "critical", 0: "default", -50: "low"}},
    },
    "open": {"BACKEND": _BACKEND, "QUEUES": []},
    "dummy": {"BACKEND": _DUMMY},
}
