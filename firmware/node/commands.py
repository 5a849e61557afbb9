"""What the gateway may tell a node to do: one at a time, at most one of a kind, each with an answer.

A node with a key obeys what that key signed for this boot, with a number above all before: whoever heard a command
cannot repeat it. What judges and does them is loaded while there are any (`orders`).
"""

from node.tasks import forget


class Commands:
    """`parts` are (device, key, boot), the station with the sensors, the LED, diagnose() -> dict, restart(reason) that
    does not come back, and report(code, text) that hears of commands which nobody may give."""

    def __init__(self, *parts):
        self._parts = parts
        self._orders = None
        self.seen = []  # ids: QoS 1 may bring one twice
        self.n = self.refused = 0

    @property
    def waiting(self):
        """Whether something is to be done."""
        return self._orders is not None

    def heard(self, command_id, payload):
        """Take a command in; a repetition of one that was heard is none."""
        if "/" in command_id or command_id in self.seen:
            return
        if self._orders is None:
            from node.orders import Orders

            self._orders = Orders(self, *self._parts)
        self._orders.heard(command_id, payload)

    async def obey(self, answer):
        """Do the next that waits and `answer` it with (command id, payload)."""
        if self._orders is None:
            return
        await self._orders.obey(answer)
        if not self._orders.waiting:
            self._orders = None
            forget("node.orders")
