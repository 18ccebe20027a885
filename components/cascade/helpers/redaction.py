"""Secrets and personal data in a text, replaced before it leaves this machine, and put back into what comes home.

A value becomes a placeholder such as ``[EMAIL_1]``, the same for every time it occurs. What has the right form is
checked where there is a check: card numbers by Luhn's digit, IBANs by the remainder modulo 97. Names of people are not
hidden: they are what most questions are about, and no rule of this size tells them from other words.

A text may end in the middle of a value that it held before, because the model is just repeating it. Such an end is
replaced too.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_LONGEST_NUMBER = 45
"""Characters of an account's number, its spaces included."""
_LEAST_REPEATED = 4
"""Characters of a known value at the end of a text that count as its beginning."""
_PLACEHOLDER = re.compile(r"\[[A-Z]+_\d+\]")
_CUT_PLACEHOLDER = re.compile(r"\[(?:[A-Z]+(?:_\d*)?)?$")


def _luhn(text: str) -> bool:
    compact = re.sub("[ -]", "", text)
    digits = [int(character) for character in compact if compact.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def _iban(text: str) -> bool:
    compact = text.replace(" ", "")
    if not re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]+", compact):
        return False
    moved = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(each, 36)) for each in moved)) % 97 == 1


@dataclass(frozen=True)
class Rule:
    """What a kind of value looks like."""

    kind: str
    pattern: re.Pattern[str]
    """The group ``value``, if there is one, is what is hidden; else all of it."""
    check: Callable[[str], bool] | None = None


def _rule(kind: str, pattern: str, check: Callable[[str], bool] | None = None) -> Rule:
    return Rule(kind, re.compile(pattern, re.VERBOSE), check)


# The longest forms first: what one rule has hidden is not looked at by the next.
RULES = (
    _rule("KEY", r"-----BEGIN[A-Z ]*[ ]PRIVATE[ ]KEY-----[\s\S]*?(?:-----END[A-Z ]*[ ]PRIVATE[ ]KEY-----|\Z)"),
    _rule("TOKEN", r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"),  # a JSON Web Token
    _rule(
        "TOKEN",
        r"""\b(?:
            (?:sk|pk|rk)[-_](?:[a-z]+[-_])*[A-Za-z0-9_-]{16,}      # OpenAI, Anthropic, Stripe
          | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}        # GitHub
          | glpat-[\w-]{16,}                                       # GitLab
          | (?:AKIA|ASIA)[0-9A-Z]{16}                              # AWS
          | AIza[\w-]{30,}                                         # Google
          | xox[abeoprs]-[\w-]{10,}                                # Slack
          | hf_[A-Za-z0-9]{20,}                                    # Hugging Face
        )""",
    ),
    _rule("PASSWORD", r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:(?P<value>[^\s/@]+)@"),  # in an address
    _rule(
        "SECRET",
        r"""(?i:\b(?:password|passwd|pwd|passphrase|secret|api[ _-]?key|access[ _-]?key|auth[ _-]?token|token|pin)\b)
            ["']?\s*(?:[:=]|\bis\b)\s*["']?(?P<value>[^\s"',;]{2,}[^\s"',;.])""",
    ),
    _rule("EMAIL", r"\b[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}\b"),
    _rule("IBAN", r"\b[A-Z]{2}[0-9]{2}(?:\ ?[A-Z0-9]){11,}\b", _iban),
    _rule("CARD", r"(?<![0-9.])[0-9](?:[ -]?[0-9]){12,}(?![0-9.]?[0-9])", _luhn),
    _rule("NUMBER", r"\b(?!000|666|9)\d{3}-\d{2}-\d{4}\b"),  # of social security in the United States
    _rule("PHONE", r"(?<![\w+])\+\d(?:[ ().-]{0,2}\d){7,14}\b"),
    _rule("ADDRESS", r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.]*\d)"),
)


def _parts(text: str) -> Iterator[str]:
    """What is left of ``text`` without words at either end, the longest parts first."""
    ends = [0, *(found.start() for found in re.finditer(r"[ -]", text)), len(text)]
    spans = ((start, end) for start in ends for end in ends if 0 < end - start <= _LONGEST_NUMBER)
    for start, end in sorted(spans, key=lambda span: span[0] - span[1]):
        yield text[start:end].lstrip(" -")


@dataclass
class Redaction:
    """The values of one text and their placeholders."""

    placeholders: dict[str, str] = field(default_factory=dict)
    """By the value that each stands for."""

    def hide(self, text: str) -> str:
        """``text`` with a placeholder for every value."""
        for rule in RULES:
            text = rule.pattern.sub(lambda found, rule=rule: self._replaced(rule, found), text)  # type: ignore[misc]
        for value in sorted(self.placeholders, key=len, reverse=True):
            text = text.replace(value, self.placeholders[value])  # also where a rule does not see it, such as in a word
        return self._ending_hidden(text)

    def restore(self, text: str) -> str:
        """``text`` with the values for their placeholders; one that was cut off at the end is left out."""
        values = {placeholder: value for value, placeholder in self.placeholders.items()}
        text = _PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), text)
        return _CUT_PLACEHOLDER.sub("", text) if values else text

    def _replaced(self, rule: Rule, found: re.Match[str]) -> str:
        if rule.check is not None:
            return self._checked(rule, found[0])
        group = "value" if "value" in rule.pattern.groupindex else 0
        if _PLACEHOLDER.search(value := found[group]):
            return found[0]
        start = found.start(group) - found.start()
        return found[0][:start] + self._placeholder(rule.kind, value) + found[0][start + len(value) :]

    def _checked(self, rule: Rule, text: str) -> str:
        """``text`` with a placeholder for all that passes the check: a number may have others for neighbours."""
        assert rule.check is not None
        while value := next((part for part in _parts(text) if rule.check(part)), ""):
            text = text.replace(value, self._placeholder(rule.kind, value))
        return text

    def _placeholder(self, kind: str, value: str) -> str:
        number = 1 + sum(each.startswith(f"[{kind}_") for each in self.placeholders.values())
        return self.placeholders.setdefault(value, f"[{kind}_{number}]")

    def _ending_hidden(self, text: str) -> str:
        for value, placeholder in self.placeholders.items():
            for length in range(len(value) - 1, _LEAST_REPEATED - 1, -1):
                if text.endswith(value[:length]):
                    return text[: len(text) - length] + placeholder
        return text
