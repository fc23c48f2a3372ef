"""What this project needs of Django, and no more."""

import os

from psycopg.conninfo import conninfo_to_dict

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only-for-trying-it")
INSTALLED_APPS = ["shop"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

_database = conninfo_to_dict(os.environ["DATABASE_URL"])
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _database.get("dbname"),
        "HOST": _database.get("host"),
        "PORT": _database.get("port"),
        "USER": _database.get("user"),
        "PASSWORD": _database.get("password"),
    }
}

HUIZHI_URL = os.environ.get("HUIZHI_URL", "http://127.0.0.1:8081")
HUIZHI_API_TOKEN = os.environ.get("HUIZHI_API_TOKEN", "")
HUIZHI_ACCOUNT = "think-main"
