"""What ``dataqueue init`` writes: a look at the project, a plan of files, and what to do next. Nothing is run here."""

from dataqueue.templates.plan import TEMPLATES, File, Plan, make_plan
from dataqueue.templates.project import Project, look_at

__all__ = ["TEMPLATES", "File", "Plan", "Project", "look_at", "make_plan"]
