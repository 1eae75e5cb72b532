"""Published weights, without the wait: where a server cannot be reached, libraries look into their cache only."""

from __future__ import annotations

import http.client
import logging
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub import constants

__all__ = [
    "WeightsUnavailableError",
    "first_line",
    "hub_name",
    "hub_within_reach",
    "quiet_libraries",
    "url_within_reach",
]

_SECONDS_TO_ANSWER = 3.0
_LIBRARY_LOGGERS = ("huggingface_hub", "timm", "transformers")


class WeightsUnavailableError(Exception):
    """Published weights that cannot be had; the text is the short reason."""


@contextmanager
def hub_within_reach() -> Iterator[None]:
    """Inside, the Hugging Face hub answers, or its library is offline and reads its cache only; it logs nothing.

    huggingface_hub tries each file six times: without a network, timm's `pretrained=True` takes 46 s to fail and
    prints 22 lines.
    """
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _answers(constants.ENDPOINT)
    try:
        with quiet_libraries():
            yield
    except Exception as error:
        if constants.HF_HUB_OFFLINE and not was_offline:
            raise WeightsUnavailableError(f"{_host(constants.ENDPOINT)} cannot be reached") from error
        if was_offline:
            raise WeightsUnavailableError("HF_HUB_OFFLINE is set, and they are not in the cache") from error
        raise WeightsUnavailableError(first_line(error)) from error
    finally:
        constants.HF_HUB_OFFLINE = was_offline


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, the libraries that fetch or read networks log nothing; what is worth saying, we say."""
    levels = {name: logging.getLogger(name).level for name in _LIBRARY_LOGGERS}
    for name in _LIBRARY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def url_within_reach(url: str) -> None:
    """Do nothing where torch.hub has the file of `url` in its cache or can fetch it.

    Raises:
        NotToBeHadError: neither.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(url).path).name
    if not cached.exists() and not _answers(url):
        raise WeightsUnavailableError(f"{_host(url)} cannot be reached")


def hub_name(model: str) -> str | None:
    """The repository on the hub that has a model's pretrained weights; None where it is not known to have them."""
    source, _, name = model.partition(":")
    if source == "timm":
        known = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
        return (known.hf_hub_id or None) if known is not None else None
    return name if source == "hf" and "/" in name and not Path(name).expanduser().exists() else None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_SECONDS_TO_ANSWER):
            return True
    except urllib.error.HTTPError:
        return True  # a refusal is an answer
    except urllib.error.URLError as error:
        # Python's own certificates may be missing where the library brings its own.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
