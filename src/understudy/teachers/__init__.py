"""Teachers: what looks at a batch once and leaves an Observation."""

from understudy.teachers.live import LiveTeacher, Teacher

__all__ = ["LiveTeacher", "Teacher"]
