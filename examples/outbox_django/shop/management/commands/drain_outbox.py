"""`manage.py drain_outbox`: register what waits, and end; several may run at once."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from huizhi.client import Huizhi, HuizhiError, Sent
from shop.models import Outgoing

BATCH_ROWS = 500
_FIELDS = ("account", "vendor_message_id", "phone", "sent_at", "content", "reference")


def drain(huizhi: Huizhi) -> int:
    """Register a batch and take it out of the outbox; returns how many rows it had.

    A crash before the commit leaves the rows, and they are registered again: to Huizhi they are
    duplicates then, and nothing is counted twice.
    """
    with transaction.atomic():
        # Rows that another drain is at are skipped, not waited for.
        waiting = Outgoing.objects.select_for_update(skip_locked=True).filter(rejected=None)
        rows = list(waiting.order_by("id")[:BATCH_ROWS])
        told = huizhi.register(
            [Sent(**{name: getattr(row, name) for name in _FIELDS}) for row in rows]
        )
        for each in told.rejected:
            rows[each.index].rejected = each.reason
        Outgoing.objects.bulk_update([row for row in rows if row.rejected], ["rejected"])
        done = [row.pk for row in rows if not row.rejected]
        Outgoing.objects.filter(pk__in=done).delete()
    return len(rows)


class Command(BaseCommand):
    """Registers what waits in the outbox."""

    help = "Register sent texts with Huizhi."

    def handle(self, *args: Any, **options: Any) -> None:
        """Drain until nothing waits."""
        with Huizhi(settings.HUIZHI_URL, settings.HUIZHI_API_TOKEN) as huizhi:
            try:
                while drain(huizhi):
                    pass
            except HuizhiError as error:
                raise CommandError(f"{error}; what waits in the outbox goes on waiting") from error
