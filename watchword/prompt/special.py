"""The special tokens of a tokenizer as attributes: `pad_token`, `pad_token_id` and their kin, readable and
settable."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import AddedToken

from watchword.errors import RequestError
from watchword.prompt.tokenizer_files import STANDARD


def _token(name: str) -> property:
    """The property `name`: a token's text, or None."""

    def read(self: "SpecialTokens") -> str | None:
        value = self._special.get(name)
        return None if value is None else str(value)

    def write(self: "SpecialTokens", value: Any) -> None:
        if value is not None and not isinstance(value, str | AddedToken):
            raise RequestError(f"tokenizer.{name} = {value!r}: expected a string, a token or None")
        self._special[name] = value

    return property(read, write, doc=f"The {name.replace('_', ' ')}, or None.")


def _token_id(name: str) -> property:
    """The property `{name}_id`: a token's id, or None."""

    def read(self: "SpecialTokens") -> int | None:
        value = self._special.get(name)
        return None if value is None else self.convert_tokens_to_ids(str(value))

    def write(self: "SpecialTokens", value: int | None) -> None:
        self._special[name] = None if value is None else self.convert_ids_to_tokens(value)

    return property(read, write, doc=f"Id of the {name.replace('_', ' ')}, or None.")


class SpecialTokens:
    """Which tokens have a role. A class that inherits this has the two `convert_...` methods and
    `add_tokens`."""

    bos_token, bos_token_id = _token("bos_token"), _token_id("bos_token")
    eos_token, eos_token_id = _token("eos_token"), _token_id("eos_token")
    unk_token, unk_token_id = _token("unk_token"), _token_id("unk_token")
    sep_token, sep_token_id = _token("sep_token"), _token_id("sep_token")
    pad_token, pad_token_id = _token("pad_token"), _token_id("pad_token")
    cls_token, cls_token_id = _token("cls_token"), _token_id("cls_token")
    mask_token, mask_token_id = _token("mask_token"), _token_id("mask_token")

    def _keep_special(self, settings: dict[str, Any]) -> None:
        """Take the special tokens out of the settings of a folder."""
        self._special: dict[str, Any] = {name: settings.pop(name, None) for name in STANDARD}
        self._additional = list(settings.pop("additional_special_tokens", None) or [])
        self._named = dict(settings.pop("named", None) or {})

    @property
    def additional_special_tokens(self) -> list[str]:
        """Further tokens that are special without a role."""
        return [str(token) for token in self._additional]

    @additional_special_tokens.setter
    def additional_special_tokens(self, tokens: Sequence[str | AddedToken]) -> None:
        self._additional = list(tokens)

    @property
    def additional_special_tokens_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.additional_special_tokens)

    @property
    def special_tokens_map_extended(self) -> dict[str, Any]:
        """Role to token, tokens as they were declared (text or AddedToken); roles without a token are left
        out."""
        roles = self._special | {"additional_special_tokens": self._additional} | self._named
        return {role: value for role, value in roles.items() if value}

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """Role to token text."""
        return {
            role: [str(token) for token in value] if isinstance(value, list) else str(value)
            for role, value in self.special_tokens_map_extended.items()
        }

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens, each once."""
        texts: list[str] = []
        for value in self.special_tokens_map.values():
            texts += value if isinstance(value, list) else [value]
        return list(dict.fromkeys(texts))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Give roles to tokens, and add those to the vocabulary that it lacks.

        Args:
            special_tokens_dict: role to token, for example `{"pad_token": "<pad>"}`;
                `additional_special_tokens` takes a list.
            replace_additional_special_tokens: whether that list replaces or extends the present one.

        Returns:
            How many tokens are new in the vocabulary.
        """
        added: list[str | AddedToken] = []
        for role, value in special_tokens_dict.items():
            if role == "additional_special_tokens":
                tokens = [_special(token) for token in value]
                known = [] if replace_additional_special_tokens else self._additional
                tokens = [token for token in tokens if str(token) not in map(str, known)]
                self._additional = [*known, *tokens]
                added += tokens
            elif role in STANDARD or role in self._named:
                token = _special(value)
                (self._special if role in STANDARD else self._named)[role] = token
                added.append(token)
            else:
                raise RequestError(
                    f"add_special_tokens: unknown role {role!r}; expected one of "
                    f"{', '.join([*STANDARD, 'additional_special_tokens', *self._named])}"
                )
        return self.add_tokens(added, special_tokens=True)


def _special(token: str | AddedToken) -> AddedToken:
    return AddedToken(token, normalized=False, special=True) if isinstance(token, str) else token
