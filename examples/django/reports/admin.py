"""The admin's list of reports, with an action that enqueues."""

from django.contrib import admin, messages

from .models import Report
from .views import enqueue


@admin.register(Report)
class ReportAdmin(admin.ModelAdmin):
    list_display = ("__str__", "state", "percent", "primes", "created")
    list_filter = ("state",)
    readonly_fields = ("state", "percent", "primes", "task", "created")
    actions = ("build_again",)

    @admin.action(description="Build the selected reports again")
    def build_again(self, request, queryset):
        for report in queryset:
            enqueue(report)
        text = f"{len(queryset)} tasks are enqueued by the commit of this request."
        self.message_user(request, text, messages.SUCCESS)
