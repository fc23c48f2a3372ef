"""What an application calls when its vendor has answered a send."""

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from shop.models import Order, Outgoing


def texted(order: str, vendor_message_id: str, phone: str, content: str) -> None:
    """Keep that an order was texted about: the order and its outbox row in one transaction."""
    now = timezone.now()
    with transaction.atomic():
        Order.objects.create(number=order, texted_at=now)
        Outgoing.objects.create(
            account=settings.HUIZHI_ACCOUNT,
            vendor_message_id=vendor_message_id,
            phone=phone,
            sent_at=now,
            content=content,
            reference=order,
        )
