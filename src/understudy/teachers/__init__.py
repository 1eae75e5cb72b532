"""Teachers: what looks at a batch once and leaves an Observation."""

from understudy.teachers.base import KeptScores, RunTeacher, Teacher
from understudy.teachers.live import LiveTeacher
from understudy.teachers.several import SeveralRunTeachers, SeveralTeachers

__all__ = ["KeptScores", "LiveTeacher", "RunTeacher", "SeveralRunTeachers", "SeveralTeachers", "Teacher"]
