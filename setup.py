"""What pyproject.toml cannot say: the skills lie twice in the wheel."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SKILLS = Path("ai", "skills")
PLACE = Path("dataqueue", ".agents", "skills")
"""Where tools that look through installed packages expect skills."""


class BuildWithSkills(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in sorted(SKILLS.rglob("*.md")):
            target = Path(self.build_lib, PLACE, file.relative_to(SKILLS))
            self.mkpath(str(target.parent))
            self.copy_file(str(file), str(target))


setup(cmdclass={"build_py": BuildWithSkills})
