"""The page, and the progress that it asks for."""

from django.forms import ModelForm, NumberInput
from django.http import JsonResponse
from django.shortcuts import redirect, render

from .models import Report
from .tasks import build

SHOWN = 12


class ReportForm(ModelForm):
    class Meta:
        model = Report
        fields = ("limit",)
        widgets = {"limit": NumberInput(attrs={"min": 10, "max": 100_000_000, "step": "any"})}


def enqueue(report):
    """Have a worker build a report; the push waits for the commit."""
    report.state, report.percent, report.primes = Report.State.WAITING, 0, None
    report.task = build.enqueue(report.id).id
    report.save()


def index(request):
    form = ReportForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        enqueue(form.save())
        return redirect("index")
    return render(request, "reports/index.html", {"form": form, "reports": rows()})


def progress(request):
    return JsonResponse({"reports": rows()})


def rows():
    return [
        {
            "id": report.id,
            "name": str(report),
            "state": report.state,
            "percent": report.percent,
            "result": "" if report.primes is None else f"{report.primes:,}",
            "task": report.task,
        }
        for report in Report.objects.all()[:SHOWN]
    ]
