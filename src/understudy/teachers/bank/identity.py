"""What a bank is a bank of, compared: content, versions, and the refusal of another's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.teachers.bank.store import BankFolder, Manifest, by_digest
from understudy.utils.errors import UserError, differences

__all__ = ["differing_content", "refuse_another", "refuse_another_beside", "version_note"]

ALL_IMAGES = ("all_pixels", "all_files")  # and what it is taken from where they are in memory, or files


def differing_content(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What differs of that which both keys tell."""
    return list(differences(_comparable(here, there), _comparable(there, here)))


def _comparable(key: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The key without what the other does not tell.

    Weights are known by their digest, or by their name where their file is gone; images that lie decoded at one time
    and as files at another have the probed ones in common.
    """
    kept = by_digest(key) if _group(other, "teacher").get("sha256") else dict(key)
    kept["teacher"] = {name: value for name, value in _group(kept, "teacher").items() if name != "sha256"}
    others = _group(other, "data")
    kept["data"] = {
        split: {name: value for name, value in told.items() if name not in ALL_IMAGES or name in _group(others, split)}
        if isinstance(told, Mapping)
        else told
        for split, told in _group(kept, "data").items()
    }
    return kept


def _group(key: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = key.get(name)
    return found if isinstance(found, Mapping) else {}


def refuse_another(folder: BankFolder, there: Manifest, here: Manifest) -> None:
    """Refuse to add to a bank of another teacher, other transforms, other data, or that keeps something else."""
    found = differing_content(*({**told.key, **_kept_by(told)} for told in (here, there)))
    if found:
        raise _holds_something_else(folder, found)


def refuse_another_beside(folder: BankFolder, here: Manifest) -> None:
    """Refuse to begin a seed beside others that no run could use together with it."""
    for beside in sorted(folder.path.parent.glob("seed*")):
        other = BankFolder(beside)
        if beside != folder.path and other.exists and (there := other.manifest()).content_key != here.content_key:
            one, another = ({**told.content[0], **_kept_by(told)} for told in (here, there))
            raise _holds_something_else(other, list(differences(one, another)))


def _kept_by(told: Manifest) -> dict[str, Any]:
    return {"keeps": told.layout.model_dump(mode="json"), "teacher weights": told.teacher.fingerprint}


def _holds_something_else(folder: BankFolder, found: list[str]) -> UserError:
    return UserError("\n".join([f"{folder.path} holds a bank of something else; take another --out", *found]))


def version_note(name: str, told: Mapping[str, str | None], here: Mapping[str, str | None]) -> str | None:
    """A warning where a bank was begun with other versions than those that are here; an old one does not tell."""
    others = [
        f"{package} {then} (here {here.get(package)})" for package, then in told.items() if then != here.get(package)
    ]
    if not others:
        return None
    return (
        f"warning  {name} was made with {', '.join(others)}; where these decode or augment images otherwise, the "
        "teacher saw other pixels than the student is going to see: bank it anew to be sure"
    )
