"""Which stage of the student is compared with which stage of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from understudy.core.batch import Pairing
from understudy.core.taps import Taps, TapShape
from understudy.methods.base import Context, Method, MethodConfig, TapShapes
from understudy.utils.errors import UserError

__all__ = ["StageConfig", "StageMethod", "StagePair", "spread"]

Stages = tuple[int | str, ...]
Group = Literal["stages", "preact_stages"]
Side = Literal["student", "teacher"]

_MOST_BY_DEFAULT = 4  # pairs of two isotropic networks: as many as a pyramid has stages


class StageConfig(MethodConfig):
    """Settings that every method on stages has.

    A stage is a number (from 0, negative ones from the end) among the network's own stages, or the name of any tap.
    Named on both sides, the first goes with the first. None: the default, see `StageMethod`.
    """

    student_stages: Stages | None = None
    teacher_stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class StagePair:
    """A tap of the student and the tap of the teacher that it is compared with."""

    student: str
    teacher: str
    student_shape: TapShape
    teacher_shape: TapShape

    @property
    def size(self) -> tuple[int, int]:
        """Height and width at which both maps are compared: the smaller of either."""
        (a, b), (c, d) = _size(self.student_shape), _size(self.teacher_shape)
        return min(a, c), min(b, d)


class StageMethod(Method):
    """Base of the methods that compare features stage by stage.

    By default every stage after the first, the stem, is compared (the field's feats[1:]), the last with the last.
    Where one side has more: of a pyramid the last n are taken; of an isotropic network (a ViT), whose maps all have
    one size and which has no stem, n evenly spread ones that end with the last. Two isotropic networks are compared
    at four places. Nothing is cut off without a word: named stages must be as many on one side as on the other.
    """

    taps = Taps(student=("stages",), teacher=("stages",))
    group: ClassVar[Group] = "stages"  # of the taps; AB's are preact_stages
    has_stem: ClassVar[bool] = True  # False: the first stage of a pyramid is compared too

    def __init__(self, config: StageConfig, context: Context) -> None:
        super().__init__(config, context)
        if config.student_stages is None and config.teacher_stages is None:
            self.pairs = self.chosen(self._pairs(config, context))
        else:
            self.pairs = self._pairs(config, context)

    @classmethod
    def taps_for(cls, config: MethodConfig) -> Taps:
        """All stages of a side, unless every stage of both is given by name."""
        assert isinstance(config, StageConfig)
        ours, theirs = config.student_stages, config.teacher_stages
        student_group, teacher_group = cls.groups_for(config)
        if ours is None or theirs is None:  # the counterpart of a stage is found among all of them
            return Taps((student_group, *_strings(ours)), (teacher_group, *_strings(theirs)))
        return Taps(_taps(ours, student_group), _taps(theirs, teacher_group))

    @classmethod
    def groups_for(cls, config: MethodConfig) -> tuple[Group, Group]:
        """Among which taps the student's stages are numbered, and among which the teacher's."""
        return cls.group, cls.group

    @staticmethod
    def chosen(pairs: list[StagePair]) -> list[StagePair]:
        """Those of the default pairs that the method compares where nobody names any."""
        return pairs

    def skips_stem(self) -> bool:
        """Whether, under these settings, the first stage of a pyramid is left out by default."""
        return self.has_stem

    def features(self, pairing: Pairing) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's feature of every pair, in order."""
        return (
            [pairing.student_features[pair.student] for pair in self.pairs],
            [pairing.teacher_features[pair.teacher] for pair in self.pairs],
        )

    def refuse_single_positions(self) -> None:
        """Refuse pairs that all meet at a single position, where what the method compares is a constant.

        Raises:
            UserError: naming the method, its stages, and those that have more positions in common.
        """
        if any(pair.size != (1, 1) for pair in self.pairs):
            return
        met = ", ".join(
            f"the student's {pair.student} ({pair.student_shape}) and the teacher's {pair.teacher} "
            f"({pair.teacher_shape})"
            for pair in self.pairs
        )
        raise UserError(
            f"method {self.name!r} compares positions of a map, but {met} have a single one in common; "
            f"{self._with_positions() or 'name earlier stages in method.student_stages'}; or take larger images"
        )

    def _with_positions(self) -> str:
        """The setting that takes the last of the stages that go together by default and have several positions."""
        student, teacher = self.context.student, self.context.teacher
        ours = self._numbered(student, "student")
        if not ours or not self._numbered(teacher, "teacher"):
            return ""
        pairs = [StagePair(a, b, student[a], teacher[b]) for a, b in self._defaults(student, teacher)]
        wide = [pair for pair in pairs if pair.size != (1, 1)]
        if not wide:
            return ""
        last, (height, width) = wide[-1], wide[-1].size
        return (
            f"method.student_stages=[{ours.index(last.student)}] takes {last.student} and the teacher's "
            f"{last.teacher}, which have {height} x {width}"
        )

    def _pairs(self, config: StageConfig, context: Context) -> list[StagePair]:
        student, teacher = context.student, context.teacher
        ours = self._named(config.student_stages, self._numbered(student, "student"), student, "student")
        theirs = self._named(config.teacher_stages, self._numbered(teacher, "teacher"), teacher, "teacher")
        if ours is None or theirs is None:
            defaults = self._defaults(student, teacher)
            if ours is None and theirs is None:
                ours, theirs = [pair[0] for pair in defaults], [pair[1] for pair in defaults]
            elif theirs is None:
                theirs = self._partners(ours or [], dict(defaults), "student", "teacher")
            else:
                ours = self._partners(theirs, {b: a for a, b in defaults}, "teacher", "student")
        assert ours is not None
        if len(ours) != len(theirs):
            raise UserError(
                f"method {self.name!r}: student_stages names {len(ours)} stages ({', '.join(ours)}) and teacher_stages "
                f"{len(theirs)} ({', '.join(theirs)}); name as many on either side, the first goes with the first"
            )
        return [StagePair(a, b, student[a], teacher[b]) for a, b in zip(ours, theirs, strict=True)]

    def _defaults(self, student: TapShapes, teacher: TapShapes) -> list[tuple[str, str]]:
        ours, theirs = self._candidates(student, "student"), self._candidates(teacher, "teacher")
        num_pairs = min(len(ours), len(theirs))
        are_isotropic = self._is_isotropic(student, "student"), self._is_isotropic(teacher, "teacher")
        if all(are_isotropic):
            num_pairs = min(num_pairs, _MOST_BY_DEFAULT)
        ours = spread(ours, num_pairs) if are_isotropic[0] else ours[-num_pairs:]
        theirs = spread(theirs, num_pairs) if are_isotropic[1] else theirs[-num_pairs:]
        return list(zip(ours, theirs, strict=True))

    def _partners(self, named: list[str], partners: dict[str, str], side: str, other: str) -> list[str]:
        """What the named stages of one side are compared with by default."""
        for name in named:
            if name not in partners:
                raise UserError(
                    f"method {self.name!r}: {side}_stages names {name}, which has no counterpart by default (those "
                    f"that have are {', '.join(partners)}); set method.{other}_stages too"
                )
        return [partners[name] for name in named]

    def _named(self, stages: Stages | None, numbered: list[str], shapes: TapShapes, side: Side) -> list[str] | None:
        if stages is None:
            return None
        names: list[str] = []
        for stage in stages:
            if isinstance(stage, int) and -len(numbered) <= stage < len(numbered):
                names.append(numbered[stage])
            elif isinstance(stage, str) and stage in shapes:
                names.append(stage)
            else:
                raise UserError(
                    f"method {self.name!r}: {side}_stages names {stage!r}, but the {side} has {len(numbered)} "
                    f"{self._group(side)}, numbered from 0, and taps at {', '.join(shapes) or 'nothing'}"
                )
        if not names:
            raise UserError(f"method {self.name!r}: {side}_stages is empty; name a stage, or leave it out")
        return names

    def _candidates(self, shapes: TapShapes, side: Side) -> list[str]:
        names = self._numbered(shapes, side)
        if not names:
            raise UserError(
                f"method {self.name!r} compares {self._group(side)}, and the {side} offers none; name modules of both "
                "networks in method.student_stages and method.teacher_stages"
            )
        begins_with_stem = self.skips_stem() and len(names) > 1 and not self._is_isotropic(shapes, side)
        return names[1:] if begins_with_stem else names

    def _is_isotropic(self, shapes: TapShapes, side: Side) -> bool:
        names = self._numbered(shapes, side)
        return len(names) > 1 and len({_size(shapes[name]) for name in names}) == 1

    def _numbered(self, shapes: TapShapes, side: Side) -> list[str]:
        found = [name for name in shapes if name.startswith(f"{self._group(side)}.")]
        return sorted(found, key=lambda name: int(name.rpartition(".")[2]))

    def _group(self, side: Side) -> Group:
        return self.groups_for(self.config)[side == "teacher"]


def spread(names: Sequence[str], num_chosen: int) -> list[str]:
    """`num_chosen` of the names, evenly spread, the last one among them."""
    return [names[-(-(i + 1) * len(names) // num_chosen) - 1] for i in range(num_chosen)]


def _taps(stages: Stages, group: Group) -> tuple[str, ...]:
    names = _strings(stages)
    return names if len(names) == len(stages) else (group, *names)


def _strings(stages: Stages | None) -> tuple[str, ...]:
    return tuple(stage for stage in stages or () if isinstance(stage, str))


def _size(shape: TapShape) -> tuple[int, int]:
    return shape.height or 1, shape.width or 1
