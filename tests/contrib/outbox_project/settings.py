"""SHOP_DATABASES is DATABASES as JSON; SHOP_ADMIN brings the admin page, SHOP_ROUTER a router."""

import json
import os

SECRET_KEY = "of a test"
DEBUG = False
ALLOWED_HOSTS = ["testserver"]
USE_TZ = True
DATABASES = json.loads(os.environ["SHOP_DATABASES"])
DATABASE_ROUTERS = ["shop.routers.ShopRouter"] if os.environ.get("SHOP_ROUTER") else []
INSTALLED_APPS = ["faktory.contrib.django.outbox", "shop"]
if os.environ.get("SHOP_ADMIN"):
    names = ("admin", "auth", "contenttypes", "messages", "sessions")
    INSTALLED_APPS += [f"django.contrib.{name}" for name in names]
    ROOT_URLCONF = "urls"
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
