"""Arms of which nothing is special, as stages ask a registry about them: the base of the fakes in tests."""

from __future__ import annotations

from composer.types import Message, Prompt, Sampling, Stream


class PlainArms:
    """Arms that answer in prose, read nothing, contrast nothing and take every prompt; fakes say who they are and where they run."""

    def stream(self, arm: str, prompt: Prompt, *, bare: bool = False) -> Stream:
        return Stream(arm, prompt)

    def sampling(self, arm: str) -> Sampling:
        return Sampling()

    def messages(self, arm: str, text: str) -> Prompt:
        return (Message("user", text),)

    def strategy(self, arm: str) -> None:
        return None

    def evidence(self, arm: str) -> None:
        return None

    def contrast(self, arm: str) -> None:
        return None

    def contrasts(self) -> dict[str, str]:
        return {}

    def partners(self, arm: str) -> tuple[str, ...]:
        return ()

    def fits(self, arm: str, text: str) -> bool:
        return True
