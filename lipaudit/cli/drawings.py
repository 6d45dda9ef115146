"""Drawings and arrays: what `inspect` writes besides its report."""

from pathlib import Path
from typing import TYPE_CHECKING

from lipaudit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lipaudit.formats.spectra_file import Exported
    from lipaudit.operators.spectrum import Spectrum
    from lipaudit.results import Report


class Drawings:
    """Where the plots and the spectra go, and the spectra on their way there."""

    def __init__(
        self, paths: list[str], plots: str | None, kind: str, export: str | None, *, force: bool
    ) -> None:
        self._models = [Path(path) for path in paths]
        self._plots = Path(plots) if plots is not None else None
        self._kind = kind
        self._export = Path(export) if export is not None else None
        self._force = force
        self._spectra: list[Exported] = []

    def check(self, *, spectra: bool) -> None:
        """Refuse what cannot be written before any work is done."""
        from lipaudit.formats import outputs  # noqa: PLC0415 - keeps `--help` instant

        if self._export is not None:
            if not spectra:
                raise UsageError(
                    "--export has nothing to write",
                    slug="export-spectra",
                    hint="leave --no-spectra out",
                )
            outputs.check(self._export, self._models, force=self._force)
        if self._plots is not None:
            from lipaudit.report import plot_files  # noqa: PLC0415 - keeps errors instant

            plot_files.check_kind(self._kind)
            for name in plot_files.names(len(self._models), self._kind):
                if self._plots.is_dir():
                    outputs.check(self._plots / name, self._models, force=self._force)

    @property
    def targets(self) -> tuple[str, ...]:
        """What is going to be written: no report may go there as well."""
        export = () if self._export is None else (str(self._export),)
        if self._plots is None:
            return export
        from lipaudit.report import plot_files  # noqa: PLC0415 - keeps errors instant

        names = plot_files.names(len(self._models), self._kind)
        return (*export, *(str(self._plots / name) for name in names))

    def keeper(self, path: str) -> "Callable[[str, Spectrum], None] | None":
        """Return what takes the spectra of one model; None where nobody wants them."""
        if self._export is None:
            return None
        from lipaudit.formats.spectra_file import Exported  # noqa: PLC0415 - the same

        def keep(name: str, spectrum: "Spectrum") -> None:
            self._spectra.append(Exported(path, name, spectrum))

        return keep

    def write(self, report: "Report") -> None:
        """Write everything that was asked for, each file whole or not at all."""
        from lipaudit.formats import outputs, spectra_file  # noqa: PLC0415 - the same
        from lipaudit.report import plot_files  # noqa: PLC0415 - the same

        if self._export is not None:
            spectra_file.write(self._export, self._spectra, models=self._models, force=self._force)
        if self._plots is not None:
            files = plot_files.drawn(report, self._kind)
            outputs.put_in(self._plots, files, originals=self._models, force=self._force)
