"""Teachers: what looks at a batch once and leaves an Observation."""

from understudy.teachers.base import KeptScores, RunTeacher, Teacher
from understudy.teachers.live import LiveTeacher

__all__ = ["KeptScores", "LiveTeacher", "RunTeacher", "Teacher"]
