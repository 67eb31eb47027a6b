"""Find the photos of a COCO JSON file by their file_name, and count those whose path is another."""

import os
from pathlib import Path

from gemma_lisa.safety.short_text import show

from .annotated import Notes
from .photo_names import PhotoNames

OTHER_NAME = "photos found by the last part of their name in the JSON"


class PhotoFinder:
    """Find photos by the names in a COCO file. A photo at exactly its name is found without searching folders.

    Args:
        folders: to search, the most likely first. No photo outside of them and of root is found.
        root: the data folder. Names such as "../images/1.jpg" can lead from one of the folders to another.
        notes: counts the photos that are found by the last part of their name.
    """

    def __init__(self, folders: list[Path], root: Path, notes: Notes):
        self.folders = folders
        self._root = os.path.join(root, "")
        self._notes, self._names = notes, PhotoNames(folders, notes)

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
        path = self._names.find(name, where)
        if not str(path).endswith(name) and not path.as_posix().endswith(os.path.normpath(name.replace("\\", "/"))):
            self._notes.add(OTHER_NAME, f"{where}: {show(name)} is {path}", path)
        return path
