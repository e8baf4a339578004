"""What the server answers when it does not answer the question: a status and one sentence."""


class Refusal(Exception):
    """An error answer.

    Args:
        status: of HTTP.
        sentence: what is wrong and what to do; it never repeats what the client sent.
        retry: the same request may succeed a moment later; the client is told so by `Retry-After`.
    """

    def __init__(self, status: int, sentence: str, *, retry: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry = status, sentence, retry

    @property
    def headers(self) -> dict[str, str]:
        """Beside those that every answer has."""
        return {"Retry-After": "1"} if self.retry else {}
