"""The work that is too long for a request."""

from math import isqrt

try:
    from django.tasks import task
except ImportError:  # Django 5.2
    from django_tasks import task

from .models import Report

SLICES = 50


@task
def build(report_id):
    """Count the primes of a report slice by slice, and save the progress after each."""
    report = Report.objects.get(id=report_id)
    report.state, report.percent, report.primes = Report.State.RUNNING, 0, None
    report.save()
    small = primes_below(isqrt(report.limit) + 1)
    count, start = 0, 2
    for number in range(1, SLICES + 1):
        end = max(start, report.limit * number // SLICES)
        count += count_primes(start, end, small)
        start = end
        report.percent = 100 * number // SLICES
        report.save(update_fields=["percent"])
    report.state, report.primes = Report.State.DONE, count
    report.save()


def primes_below(limit):
    """Return all primes below a number."""
    sieve = bytearray([1]) * limit
    for number in range(2, isqrt(limit) + 1):
        if sieve[number]:
            multiples = range(number * number, limit, number)
            sieve[number * number :: number] = bytes(len(multiples))
    return [number for number in range(2, limit) if sieve[number]]


def count_primes(start, end, small):
    """Count the primes from `start` to below `end`; `small` are those up to the root of that."""
    sieve = bytearray([1]) * (end - start)
    for prime in small:
        first = max(prime * prime, -(-start // prime) * prime)
        if first < end:
            sieve[first - start :: prime] = bytes(len(range(first, end, prime)))
    return sum(sieve)
