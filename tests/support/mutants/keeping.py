"""Trainers that trust, lose or overwrite what they should keep."""

from __future__ import annotations

from mutants.mutation import group

__all__ = ["MUTATIONS"]

_FILES = ("trainer/test_checkpoint_files.py", "trainer/test_checkpoint_tampering.py")
_STORE = ("trainer/test_checkpoint_tampering.py", "trainer/test_checkpoint_resume.py",
          "trainer/test_saver.py")  # fmt: skip

_REMOTE = ("trainer/test_remote_runs.py",)

MUTATIONS = (
    *group("qwenft_trainer/remote_checkpoints.py", _REMOTE,
        ("sees no fence behind a URL", 'self.store.get(f"{_FOLDER}/{name}", self.directory / name)',
         "return"),
        ("keeps every checkpoint behind a URL",
         'self.store.remove(f"{_FOLDER}/{file}" for file in files)', "pass"),
        ("fills the disks", 'for folder in self.directory.glob("*step-*"):', "for folder in ():"),
    ),
    *group("qwenft_trainer/transfer.py", _REMOTE,
        ("exports the first node's shards only",
         "store.get(name, folder / PurePosixPath(name).name)", "pass"),
    ),
    *group("qwenft_trainer/checkpoint_files.py", _FILES,
        ("believes a damaged file", "if actual != expected:", "if False:"),
        ("prefers more steps to the later attempt", "(entry.attempt, entry.step), reverse",
         "(entry.step, entry.attempt), reverse"),
        ("takes files that nobody vouched for",
         "if surplus := sorted(there.keys() - found.files.keys()):", "if surplus := []:"),
        ("reads files outside of the checkpoint", "if not is_plain(name))", "if False)"),
        ("reads a pipe or a link", "if path.is_symlink() or not path.is_file():", "if False:"),
        ("keeps nothing", "stay = ours[: max(1, keep)]", "stay = ours[:keep]"),
        ("removes the best", "if keep_best:", "if False:"),
        ("counts the checkpoints of others",
         "if found.identity == identity and found.attempt <= attempt]",
         "if found.attempt <= attempt]"),
        ("writes a manifest that may be half there", "part.replace(path)",
         "path.write_text(part.read_text()[:7])"),
    ),
    *group("qwenft_trainer/checkpoint.py", _STORE,
        ("is fenced off by nobody", "if last > self.attempt:", "if False:"),
        ("fetches what a manifest names elsewhere", "if strange := foreign(found):",
         "if strange := None:"),
        ("publishes although it was replaced meanwhile",
         "self._check_fence()\n        final", "final"),
        ("goes on from another run's", "if found.identity != self.identity:", "if False:"),
        ("goes on from its successor's", "if found.attempt > self.attempt:", "if False:"),
        ("goes on from what ended badly",
         "if self.before_step is not None and found.step >= self.before_step:", "if False:"),
        ("goes on from whatever is there",
         "reason = self._unusable(found)\n            if reason is not None:",
         "reason = self._unusable(found)\n            if False:"),
        ("leaves the table of contents out of the manifest",
         '{**manifest["files"], **metadata}', 'manifest["files"]'),
        ("starts Adam's count anew", "torch.tensor(float(step), dtype", "torch.tensor(0.0, dtype"),
        ("checks what one rank sees only",
         "problems = [problem for problem in _gathered_list(problem) if problem]",
         "problems = [problem] if problem else []"),
    ),
    *group("qwenft_trainer/checkpoint_reader.py", _STORE,
        ("runs what the pickle asks for", "if (module, name) in _KNOWN:", "if True:"),
        ("reads any pickle as contents", "if not isinstance(found, Metadata):", "if False:"),
        ("reads what lies elsewhere", "if not is_plain(file):", "if False:"),
        ("takes as much memory as a bit asks for", "> len(content):", "> 2**62:"),
    ),
    *group("qwenft_trainer/report.py", ("launch/test_report.py", "launch/test_report_body.py"),
        ("dies of a report that cannot be sent", "except Exception as error:",
         "except KeyError as error:"),
        ("reads its token once", "if self.token_file is not None:", "if False:"),
        ("trusts any certificate", "context = ssl.create_default_context(cafile=self.ca_file)",
         "context = ssl._create_unverified_context()"),
        ("floods the operator", "pause = last + self._interval - time.monotonic()", "pause = 0.0"),
    ),
)  # fmt: skip
