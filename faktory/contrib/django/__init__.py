"""Django: its tasks on Faktory, a management command, an outbox."""
