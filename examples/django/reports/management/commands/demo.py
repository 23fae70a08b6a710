"""`manage.py demo`: everything on this machine, for a look: server, worker, site, an admin user."""

import os
import signal
import subprocess
import sys

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand

from faktory.server import EmbeddedServer


class Command(BaseCommand):
    help = "Start the embedded server, a worker and the site."

    def add_arguments(self, parser):
        parser.add_argument("--port", type=int, default=8000, help="of the site (default: 8000)")

    def handle(self, *, port, **_):
        users = get_user_model().objects
        if not users.filter(username="admin").exists():
            users.create_superuser("admin", password="admin")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with EmbeddedServer("127.0.0.1:0") as server:
            os.environ["FAKTORY_URL"] = server.url
            worker = subprocess.Popen([sys.executable, sys.argv[0], "faktory", "-c", "2"])
            self.stdout.write(
                f"site    http://127.0.0.1:{port}/\n"
                f"admin   http://127.0.0.1:{port}/admin/  as admin, password admin\n"
                f"server  {server.url}\n"
            )
            self.stdout.flush()
            try:
                call_command("runserver", f"127.0.0.1:{port}", use_reloader=False)
            finally:
                worker.terminate()
                worker.wait()
