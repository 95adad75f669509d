"""The function of the refunds agent."""


def refund_order(order: str, amount: int) -> dict[str, str | int]:
    """Refund an order.

    Args:
        order: The order, such as A-1017.
        amount: How many euros to pay back.
    """
    return {"order": order, "refunded": amount}
