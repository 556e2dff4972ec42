"""What is promised, and the tests that prove it: the tables of ``docs/promises.md``.

python -m tests.faults.promises        # writes them into the page
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parents[2] / "docs" / "promises.md"
BEGIN, END = "<!-- begin of tables -->\n", "<!-- end of tables -->\n"


class Promise(NamedTuple):
    """``tests`` are node ids without parameters."""

    number: str
    words: str
    mark: str
    tests: tuple[str, ...]


class Fault(NamedTuple):
    """``lost`` is what it costs; empty: nothing."""

    where: str
    words: str
    lost: str
    test: str


_F, _U, _I, _E = "tests/faults/", "tests/unit/", "tests/integration/", "tests/e2e/"
_P = _U + "probes/"

PROMISES = (
    Promise(
        "P1",
        "The probe never raises into the training, blocks it, or ends it",
        "an exception at every place: weights, moments, random numbers bitwise those of the bare "
        "run, and its own exit code",
        (
            _F + "test_probe_failpoints.py::"
            "test_an_exception_at_any_place_leaves_no_trace_in_the_training",
            _F + "test_probe_failpoints.py::"
            "test_a_process_whose_probe_fails_everywhere_ends_with_its_own_exit_code",
            _F + "test_transport.py::test_training_through_any_network_is_the_same_training",
            _P + "test_shield.py::test_a_broken_part_is_switched_off_and_training_does_not_notice",
        ),
    ),
    Promise(
        "P2",
        "Memory is bounded",
        "an agent that reads nothing: queues at their limits; a soak: no growth but for what is "
        "kept of runs that are over",
        (
            _P + "test_link.py::test_an_agent_that_does_not_read_costs_measurements_and_no_time",
            _P + "test_link.py::test_a_link_that_fails_leaves_the_run_alone",
            _I + "test_hostile.py::test_a_viewer_that_never_reads_costs_neither_time_nor_memory",
            _F + "test_soak.py::test_everything_of_a_short_day_is_accounted_for",
        ),
    ),
    Promise(
        "P3",
        "Nothing is lost in silence",
        "steps sent = steps kept + steps said to be dropped, over kills, stops, loss on the way",
        (
            _F + "test_soak.py::test_everything_of_a_short_day_is_accounted_for",
            _F + "test_transport.py::test_training_through_any_network_is_the_same_training",
            _F + "test_transport.py::"
            "test_what_is_missing_at_the_beginning_and_at_the_end_of_a_run_is_counted",
            _I + "test_restart.py::test_a_restart_counts_what_was_lost_in_between",
        ),
    ),
    Promise(
        "P4",
        "A command arrives at least once, and takes effect once",
        "lost, repeated, reordered, the agent killed: 10,000 commands, the probe's deeds equal the "
        "journal",
        (
            _F + "test_transport.py::"
            "test_every_command_takes_effect_once_and_stands_so_in_the_journal",
            _F + "test_transport.py::"
            "test_commands_through_a_real_bad_network_are_carried_out_once",
            _F + "test_transport.py::"
            "test_a_repeated_command_that_nobody_remembers_is_refused_and_not_done_again",
            _P + "test_orders.py::"
            "test_a_command_is_carried_out_once_and_answered_as_often_as_it_comes",
        ),
    ),
    Promise(
        "P5",
        "In doubt training goes on as it was",
        "wrong run, too late, unknown, too old to know: refused, and nothing done",
        (
            _P + "test_orders.py::test_what_cannot_be_done_is_answered_and_changes_nothing",
            _P + "test_link.py::test_messages_for_another_run_are_not_for_us",
            _F + "test_versions.py::test_an_agent_of_another_version_is_not_obeyed",
            _F + "test_versions.py::test_a_probe_of_any_other_version_learns_why_it_is_not_watched",
        ),
    ),
    Promise(
        "P6",
        "All ranks act at one step, or none does",
        "a rank killed between vote and deed",
        (
            _P + "test_together.py::test_where_the_failure_is_known_first_nobody_acts",
            _P + "test_together.py::test_ranks_at_different_steps_do_not_act",
            _E + "ranks/test_ranks_act_together.py::"
            "test_a_rank_that_dies_between_vote_and_rollback_ends_the_run_as_it_would_bare",
        ),
    ),
    Promise(
        "P7",
        "A new agent takes up runs, incidents, timers, baselines, orders, message threads",
        "killed at every place: no incident missed, no order repeated; at most one alert twice",
        (
            _F + "test_agent_failpoints.py::"
            "test_a_kill_costs_no_incident_no_order_and_repeats_none",
            _F + "test_agent_failpoints.py::"
            "test_baselines_and_timers_are_those_of_the_moment_of_the_kill",
            _U + "agent/alerts/test_killed.py::"
            "test_nothing_is_missed_and_at_most_one_repeated_wherever_the_agent_is_killed",
        ),
    ),
    Promise(
        "P8",
        "The last good snapshot is never destroyed",
        "cut off before and during each write, sync, rename, on a disk that forgets",
        (
            _P + "test_durable_files.py::test_a_write_that_is_cut_off_anywhere_harms_nothing",
            _P + "test_durable_files.py::"
            "test_a_removal_that_is_cut_off_leaves_no_half_folder_in_sight",
        ),
    ),
    Promise(
        "P9",
        "A rollback is exact to the last bit where it says so",
        "the losses after it are those of the first time",
        (
            _P + "test_orders.py::"
            "test_a_rollback_goes_to_before_the_onset_and_replays_exactly",
            _P + "test_training_state.py::test_restoring_is_exact_as_often_as_one_likes",
            _E + "test_rollback_is_exact.py::test_a_rollback_by_command_replays_bit_for_bit",
        ),
    ),
    Promise(
        "P10",
        "One agent an endpoint",
        "the second ends with exit code 73, the first serves on",
        (
            _I + "test_restart.py::test_a_second_agent_is_refused_and_the_first_goes_on",
            _F + "test_agent_failpoints.py::"
            "test_an_agent_that_is_killed_as_it_starts_leaves_the_way_free",
        ),
    ),
    Promise(
        "P11",
        "Hostile bytes do not run, crash or swell anything",
        "a million damaged inputs, each taken or refused; 200 garbage connections",
        (
            _F + "test_fuzz.py::test_damaged_inputs_are_taken_or_refused_and_nothing_else",
            _I + "test_hostile.py::"
            "test_frames_that_make_no_sense_are_counted_and_harm_nobody",
            _I + "test_hostile.py::test_garbage_connections_do_not_stop_a_probe",
        ),
    ),
    Promise(
        "P12",
        "The end takes two seconds at most, and the exit code is the script's",
        "agent there, gone, stopped",
        (
            _P + "test_link.py::test_closing_takes_less_than_two_seconds",
            _F + "test_transport.py::"
            "test_the_end_comes_soon_though_the_agent_is_stopped_and_much_is_left_to_say",
            _E + "attaching/test_as_a_plain_run.py::test_a_script_ends_as_it_would_alone",
            _F + "test_probe_failpoints.py::"
            "test_a_process_whose_probe_fails_everywhere_ends_with_its_own_exit_code",
        ),
    ),
    Promise(
        "P13",
        "The end of the guard is seen",
        "a line beside the training, once an outage; a dead man's switch outside",
        (
            _P + "test_absence.py::"
            "test_one_that_goes_is_missed_once_an_outage_and_each_time",
            _U + "agent/test_dead_man.py::test_a_loop_that_stands_still_is_not_called_alive",
        ),
    ),
)  # fmt: skip

_S, _T, _H, _A = (_F + name for name in (
    "test_state.py::", "test_transport.py::", "test_host.py::", "test_agent_failpoints.py::"
))  # fmt: skip
_TAIL = "steps of its last quarter second, counted as dropped"
FAULTS = (
    Fault("agent", "killed, in the path of a run, at every named place", _TAIL,
          _A + "test_a_kill_costs_no_incident_no_order_and_repeats_none"),
    Fault("agent", "killed between an order and its record, as a real process", _TAIL,
          _A + "test_a_real_agent_that_dies_there_is_followed_by_one_that_gives_the_order_once"),
    Fault("agent", "killed as it starts", "",
          _A + "test_an_agent_that_is_killed_as_it_starts_leaves_the_way_free"),
    Fault("agent", "killed while it sets a damaged database aside", "",
          _A + "test_a_kill_while_a_damaged_database_is_set_aside_loses_neither"),
    Fault("agent", "killed in a migration", "",
          _A + "test_a_kill_in_a_migration_leaves_the_earlier_schema_whole"),
    Fault("agent", "killed while it forgets a run", "",
          _A + "test_a_kill_while_a_run_is_forgotten_leaves_it_whole_or_gone"),
    Fault("agent", "killed between an alert and its record", "one alert may come twice",
          _U + "agent/alerts/test_killed.py::"
          "test_nothing_is_missed_and_at_most_one_repeated_wherever_the_agent_is_killed"),
    Fault("agent", "stopped (SIGSTOP)", "steps beyond the queue, counted",
          _T + "test_a_stopped_agent_costs_neither_time_nor_memory"),
    Fault("agent", "two of them", "",
          _I + "test_restart.py::test_a_second_agent_is_refused_and_the_first_goes_on"),
    Fault("state", "emptied, cut, bits turned, garbage, of another program",
          "runs that are over; the file is set aside",
          _S + "test_a_damaged_database_is_set_aside_and_said"),
    Fault("state", "the log beside it gone or garbage", "what was only in it",
          _S + "test_a_write_ahead_log_that_is_gone_or_garbage_costs_what_was_in_it_alone"),
    Fault("state", "deleted, replaced or spoilt while it is used", "steps of before",
          _S + "test_a_file_that_goes_while_it_is_used_is_begun_anew_with_all_that_is_known"),
    Fault("state", "of every earlier version", "",
          _S + "test_what_an_earlier_version_kept_is_taken_up"),
    Fault("state", "of a newer version", "the agent ends with 78; the file is left alone",
          _S + "test_a_newer_schema_is_refused_and_left_alone"),
    Fault("probe", "an exception at every place", "what that part measures, said once",
          _F + "test_probe_failpoints.py::"
          "test_an_exception_at_any_place_leaves_no_trace_in_the_training"),
    Fault("probe", "Ctrl-C inside a hook", "",
          _P + "test_shield.py::"
          "test_ctrl_c_inside_a_hook_reaches_the_script_with_everything_in_place"),
    Fault("probe", "fork before the watch", "",
          _H + "test_a_child_that_was_forked_before_the_watch_began_is_not_part_of_it"),
    Fault("probe", "fork after it", "",
          _P + "test_attach_and_close.py::test_a_forked_child_is_not_watched_and_exits_cleanly"),
    Fault("probe", "DataLoader workers", "",
          _P + "test_attach_and_close.py::test_data_loader_workers_work_while_watched"),
    Fault("probe", "the GIL held for a minute", "nothing; silent meanwhile",
          _H + "test_a_process_that_holds_the_gil_for_long_is_not_given_up"),
    Fault("probe", "the interpreter ends, in every way", "",
          _E + "attaching/test_as_a_plain_run.py::test_a_script_ends_as_it_would_alone"),
    Fault("probe", "a kernel fails, and with it every call to the device", "what was on its way",
          _P + "test_lost_device.py::test_what_does_not_arrive_any_more_is_missing"),
    Fault("probe", "the update is captured into a CUDA graph", "the run, from there on; said",
          _P + "test_graph_capture.py::test_the_run_is_no_longer_watched_and_goes_on"),
    Fault("probe", "a rank leaves, dies or stays away, on the device", "the guard; said once",
          _P + "test_vote_on_cuda.py::"
          "test_one_that_does_not_come_is_waited_for_that_long_and_no_longer"),
    Fault("network", "loss, delay, repeats, reordering, half open, cut", "counted as dropped",
          _T + "test_training_through_any_network_is_the_same_training"),
    Fault("network", "commands lost, repeated, reordered, with kills", "",
          _T + "test_every_command_takes_effect_once_and_stands_so_in_the_journal"),
    Fault("network", "a viewer that never reads", "its pictures",
          _T + "test_a_viewer_that_is_stopped_does_not_hold_the_agent_up"),
    Fault("network", "200 garbage connections", "",
          _I + "test_hostile.py::test_garbage_connections_do_not_stop_a_probe"),
    Fault("network", "a probe of another version", "that run is not watched, and told why",
          _F + "test_versions.py::test_a_probe_of_any_other_version_learns_why_it_is_not_watched"),
    Fault("network", "an agent of another version", "that run is not watched, said once",
          _F + "test_versions.py::test_an_agent_of_another_version_is_not_obeyed"),
    Fault("network", "a viewer of another version", "it is told why",
          _F + "test_versions.py::test_a_viewer_of_another_version_learns_why_it_gets_no_answer"),
    Fault("disk", "full", "nothing; it waits in memory",
          _H + "test_a_full_disk_stops_neither_judging_nor_orders"),
    Fault("disk", "read-only as the agent starts", "the agent ends with 78",
          _H + "test_an_agent_on_a_disk_that_is_read_only_says_so_and_ends"),
    Fault("disk", "errors in half of all transactions", "",
          _H + "test_a_disk_error_in_the_middle_of_a_run_loses_nothing"),
    Fault("disk", "EIO, ENOSPC, EROFS, ESTALE under an incident's folder", "those files, said",
          _H + "test_evidence_that_cannot_be_written_is_said_and_no_more"),
    Fault("disk", "cut off at each write, sync, rename of a snapshot", "that snapshot alone",
          _P + "test_durable_files.py::test_a_write_that_is_cut_off_anywhere_harms_nothing"),
    Fault("time", "the wall clock jumps by a day, back and forth", "",
          _H + "test_a_wall_clock_that_jumps_by_a_day_changes_no_verdict"),
    Fault("identity", "a run id used again", "",
          _H + "test_a_run_id_that_is_used_again_begins_a_run_anew"),
    Fault("identity", "a process number used again", "",
          _U + "agent/test_process_end.py::"
          "test_one_that_began_later_under_the_same_number_is_another"),
)  # fmt: skip


def tables() -> str:
    """Both, in Markdown."""
    lines = ["| | promise | pass mark | proved by |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {p.number} | {p.words} | {p.mark} | {'<br>'.join(f'`{test}`' for test in p.tests)} |"
        for p in PROMISES
    ]
    lost = sum(bool(fault.lost) for fault in FAULTS)
    lines += [
        "",
        f"Faults that are tried: {len(FAULTS)}. Training survived: {len(FAULTS)}. Something of the "
        f"watch was lost, and said: {lost}.",
        "",
        "| where | fault | training | lost of the watch | tried by |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {f.where} | {f.words} | goes on | {f.lost or 'nothing'} | `{f.test}` |" for f in FAULTS
    ]
    return "\n".join(lines) + "\n"


def page_with(tables_now: str, page: str) -> str:
    """The page with these tables in their place."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables_now}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(tables(), PAGE.read_text()))
