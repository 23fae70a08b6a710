"""The admin page: jobs that wait, jobs that were refused, and an action that sends these again."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.utils.translation import ngettext

from .models import OutboxJob


class RefusedFilter(admin.SimpleListFilter):
    """Waiting or refused."""

    title = "state"
    parameter_name = "state"

    def lookups(self, _request: Any, _model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "waiting"), ("refused", "refused")]

    def queryset(self, _request: Any, queryset: Any) -> Any:
        if self.value() in ("waiting", "refused"):
            return queryset.filter(refused__isnull=self.value() == "waiting")
        return queryset


@admin.register(OutboxJob)
class OutboxJobAdmin(admin.ModelAdmin):
    """Shows rows; they are written by transactions, and deleted by the relay."""

    list_display = ("id", "jobtype", "jid", "created", "refused")
    list_filter = (RefusedFilter,)
    search_fields = ("jid", "payload", "refused")
    readonly_fields = ("id", "jid", "payload", "created", "refused")
    actions = ("send_again",)

    def has_add_permission(self, _request: Any) -> bool:
        return False

    @admin.action(description="Send the refused jobs again", permissions=["change"])
    def send_again(self, request: Any, queryset: Any) -> None:
        """Clear the reasons, so that the relay pushes the jobs."""
        count = queryset.filter(refused__isnull=False).update(refused=None)
        text = ngettext("%d job is sent again.", "%d jobs are sent again.", count) % count
        self.message_user(request, text, messages.SUCCESS)
