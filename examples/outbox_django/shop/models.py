"""Orders, and the outbox of what was sent about them."""

from django.db import models


class Order(models.Model):
    """An order whose customer was sent a text."""

    number = models.TextField(unique=True)
    texted_at = models.DateTimeField()


class Outgoing(models.Model):
    """A sent text that Huizhi does not know yet; `rejected` says why it will not have it."""

    account = models.TextField()
    vendor_message_id = models.TextField()
    phone = models.TextField()
    sent_at = models.DateTimeField()
    content = models.TextField(null=True)
    reference = models.TextField(null=True)
    rejected = models.TextField(null=True)

    class Meta:
        db_table = "outbox"
