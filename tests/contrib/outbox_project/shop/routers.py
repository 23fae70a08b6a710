"""The outbox is in the database `second` alone."""


class ShopRouter:
    def db_for_write(self, model, **hints):
        return "second" if model._meta.app_label == "faktory_outbox" else None

    db_for_read = db_for_write

    def allow_migrate(self, db, app_label, **hints):
        return (db == "second") == (app_label == "faktory_outbox")
