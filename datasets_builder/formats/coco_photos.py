"""Find the photos of a COCO JSON file by their file_name, and count those whose path is another."""

import os
import re
from collections.abc import Set
from pathlib import Path

from gemma_lisa.safety.short_text import listed, show

from .annotated import Notes
from .photo_names import PhotoNames

OTHER_NAME = "photos found by the last part of their name in the JSON"


class PhotoFinder:
    """Find photos by the names in a COCO file. A photo at exactly its name is found without searching folders.

    Args:
        folders: to search, the most likely first. No photo outside of them and of root is found.
        root: the data folder. Names such as "../images/1.jpg" can lead from one of the folders to another.
        notes: counts the photos that are found by the last part of their name.
        others: words in the names of folders of other splits. A photo in them must be named with its folder.
    """

    def __init__(self, folders: list[Path], root: Path, notes: Notes, others: Set[str] = frozenset()):
        self.folders = folders
        self._root = os.path.join(root, "")
        self._notes, self._names, self._others = notes, PhotoNames(folders, notes), others

    def find(self, name: str, where: str) -> Path:
        """Return the path of a photo.

        Args:
            name: file_name in the JSON.
            where: names the record in errors.

        Raises:
            ValueError: there is no such photo, or there are several.
        """
        if isinstance(name, str) and ".." in name:
            for folder in self.folders:
                path = os.path.normpath(folder / name.replace("\\", "/"))
                if path.startswith(self._root) and os.path.isfile(path):
                    return Path(path)
        num_notes = sum(map(len, self._notes.cases.values()))
        path = self._names.find(name, where)
        plain = os.path.normpath(name.replace("\\", "/"))
        if any(os.path.join(folder, plain) == str(path) for folder in self.folders):
            return path
        words = set(re.findall("[a-z]+", os.path.relpath(path.parent, self._root).lower()))
        if words & self._others:
            raise ValueError(
                f"{where}: the photo {show(name)} is not in {listed(map(str, self.folders[:3]))}; only {path}, of "
                "another split, has its name. Add the photo, or correct its name."
            )
        if sum(map(len, self._notes.cases.values())) == num_notes:
            self._notes.add(OTHER_NAME, f"{where}: {show(name)} is {path}", path)
        return path
