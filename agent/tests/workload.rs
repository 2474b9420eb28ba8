//! Enforcement with real processes: freeze, thaw, kill, and what happens when the agent dies without a word.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use core::time::Duration;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use countersign_agent::enforce::target::{Named, Target, cgroup_mount};
use countersign_agent::enforce::{Ended, Launch, Workload};

fn launch(directory: &Path, script: &str, cgroup_parent: Option<PathBuf>) -> Launch {
    Launch {
        agent: env!("CARGO_BIN_EXE_countersign-agent").into(),
        command: ["sh", "-c", script].map(OsString::from).to_vec(),
        credential_directory: directory.to_path_buf(),
        cgroup_parent,
    }
}

/// State letter of a process; `None` when it is gone or a zombie.
fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next().filter(|state| !matches!(state, 'Z' | 'X'))
}

/// Processes cannot be awaited when they are not ours: look until it is so, for ten seconds at most.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}

/// The process id that a workload wrote.
fn pid_in(file: &Path) -> u32 {
    let read = || fs::read_to_string(file).ok()?.trim().parse::<u32>().ok();
    eventually("the workload writes its process id", || read().is_some());
    read().unwrap()
}

/// A workload whose first process waits for another one that would go on for a long time.
fn family(directory: &Path) -> String {
    let (child, first) = (directory.join("child").display().to_string(), directory.join("first").display().to_string());
    format!(
        "sleep 100 & echo $! > {child}.new; mv {child}.new {child}; \
         echo $$ > {first}.new; mv {first}.new {first}; wait"
    )
}

#[tokio::test]
async fn the_workload_gets_its_credential_directory_and_its_code_is_passed_on() {
    let directory = tempfile::tempdir().unwrap();
    let script = "test \"$COUNTERSIGN_CREDENTIAL_DIR\" = \"$(pwd -P)\" || exit 9; exit 42"
        .replace("$(pwd -P)", directory.path().to_str().unwrap());
    let mut workload = Workload::start(&launch(directory.path(), &script, None)).unwrap();
    assert_eq!(workload.ended().await.unwrap(), Ended::Exited(42));
    let mut killed = Workload::start(&launch(directory.path(), "kill -USR1 $$", None)).unwrap();
    assert_eq!(killed.ended().await.unwrap(), Ended::Exited(128 + 10));
    let absent = Launch { command: vec!["/nonexistent".into()], ..launch(directory.path(), "", None) };
    assert_eq!(Workload::start(&absent).unwrap().ended().await.unwrap(), Ended::Exited(125));
}

#[tokio::test]
async fn freeze_stops_every_process_thaw_lets_them_go_and_kill_ends_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut workload = Workload::start(&launch(directory.path(), &family(directory.path()), None)).unwrap();
    let (first, child) = (pid_in(&directory.path().join("first")), pid_in(&directory.path().join("child")));
    assert_eq!(workload.pid(), first, "the guard became the workload");
    let took_us = workload.freeze().unwrap();
    assert_eq!(state(first), Some('T'));
    eventually("the child is stopped", || state(child) == Some('T'));
    assert!(took_us < 1_000_000, "{took_us} us");
    workload.thaw().unwrap();
    eventually("both go on", || state(first) == Some('S') && state(child) == Some('S'));
    workload.freeze().unwrap();
    workload.kill().unwrap();
    assert_eq!(workload.ended().await.unwrap(), Ended::Exited(128 + 9));
    eventually("the child is gone", || state(child).is_none());
}

#[tokio::test]
async fn the_freezer_holds_and_kills_processes_that_left_the_group() {
    // Only where this machine lets us make a cgroup.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().filter(|line| line.contains(" - cgroup2 ")).find_map(|line| line.split(' ').nth(4));
    let Some(root) = mount.map(|mount| Path::new(mount).join(format!("countersign-test-{}", std::process::id())))
    else {
        eprintln!("skipped: no cgroup2 mount");
        return;
    };
    if fs::create_dir(&root).is_err() {
        eprintln!("skipped: {} cannot be made", root.display());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let script = family(directory.path()).replace("sleep 100", "setsid sh -c 'while :; do sleep 0.01; done'");
    let mut workload = Workload::start(&launch(directory.path(), &script, Some(root.clone()))).unwrap();
    let child = pid_in(&directory.path().join("child"));
    workload.freeze().unwrap();
    let stat = || fs::read_to_string(format!("/proc/{child}/cgroup")).unwrap();
    assert!(stat().contains("countersign-workload-"), "{}", stat());
    workload.kill().unwrap();
    assert_eq!(workload.ended().await.unwrap(), Ended::Exited(128 + 9));
    eventually("the process that left the group is gone", || state(child).is_none());
    drop(workload);
    eventually("the cgroup can be removed", || {
        let inner = root.join(format!("countersign-workload-{}", std::process::id()));
        let _ = fs::remove_dir(inner);
        fs::remove_dir(&root).is_ok()
    });
}

#[test]
fn a_cgroup_of_another_is_frozen_thawed_and_killed() {
    // Only where this machine lets us make a cgroup.
    let name = format!("countersign-target-{}", std::process::id());
    let Some(mount) = cgroup_mount().filter(|mount| fs::create_dir(mount.join(&name)).is_ok()) else {
        eprintln!("skipped: no cgroup can be made");
        return;
    };
    let path = mount.join(&name);
    let mut child = Command::new("sh").args(["-c", "while :; do sleep 0.01; done"]).spawn().unwrap();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    let target = Target::hold(&format!("cgroup:/{name}").parse::<Named>().unwrap(), Some(&mount)).unwrap();
    let says = |line: &str| fs::read_to_string(path.join("cgroup.events")).unwrap().lines().any(|found| found == line);
    target.freeze().unwrap();
    assert!(says("frozen 1") && says("populated 1"));
    target.thaw().unwrap();
    eventually("it goes on", || says("frozen 0"));
    target.freeze().unwrap();
    target.kill().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    eventually("the cgroup can be removed", || fs::remove_dir(&path).is_ok());
    // A unit that does not run: nobody to stop, and nothing made up.
    target.freeze().unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_workload_whose_sentinel_ends_is_reported_unguarded() {
    let directory = tempfile::tempdir().unwrap();
    let mut workload = Workload::start(&launch(directory.path(), &family(directory.path()), None)).unwrap();
    let child = pid_in(&directory.path().join("child"));
    let sentinel = sentinels_of(std::process::id(), workload.pid());
    assert_eq!(sentinel.len(), 1);
    assert!(Command::new("kill").args(["-KILL", &sentinel[0].to_string()]).status().unwrap().success());
    assert_eq!(workload.ended().await.unwrap(), Ended::Unguarded);
    drop(workload);
    eventually("dropping a workload kills it", || state(child).is_none());
}

/// Sentinels of a group, by their command line.
fn sentinels_of(parent: u32, group: u32) -> Vec<u32> {
    let arguments = format!("group-sentinel\0--parent\0{parent}\0--group\0{group}\0");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        if fs::read_to_string(entry.path().join("cmdline")).is_ok_and(|line| line.contains(&arguments)) {
            found.push(pid);
        }
    }
    found
}

/// The agent's stand-in: a process that starts a workload and then is killed without a word. It is this test binary.
#[test]
fn helper_that_starts_a_workload() {
    let Ok(directory) =
        std::env::vars().find(|(name, _)| name == "COUNTERSIGN_TEST_WORKLOAD").map(|(_, value)| value).ok_or(())
    else {
        return;
    };
    let directory = Path::new(&directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut workload = Workload::start(&launch(directory, &family(directory), None)).unwrap();
        println!("started {}", workload.pid());
        let _ = workload.ended().await;
    });
}

#[test]
fn a_workload_dies_with_an_agent_that_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helper_that_starts_a_workload", "--nocapture", "--test-threads=1"])
        .env("COUNTERSIGN_TEST_WORKLOAD", directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("started ")));
    let (first, child) = (pid_in(&directory.path().join("first")), pid_in(&directory.path().join("child")));
    assert!(state(first).is_some() && state(child).is_some());
    agent.kill().unwrap();
    agent.wait().unwrap();
    eventually("the first process is killed by the kernel", || state(first).is_none());
    eventually("its child is killed by the sentinel", || state(child).is_none());
}

#[test]
fn guards_refuse_to_work_for_a_parent_that_is_not_theirs() {
    let guard =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_countersign-agent")).args(arguments).output().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let proof = directory.path().join("started");
    let output = guard(&["exec-guard", "--parent", "1", "--", "touch", proof.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(125));
    assert!(!proof.exists(), "the command is not started");
    // The agent is gone: the sentinel does its work at once, on a group that is ours to lose.
    let mut victim = Command::new("sleep");
    let mut victim = std::os::unix::process::CommandExt::process_group(&mut victim, 0).arg("1000").spawn().unwrap();
    let output = guard(&["group-sentinel", "--parent", "1", "--group", &victim.id().to_string()]);
    assert_eq!(output.status.code(), Some(0));
    let mut status = None;
    eventually("the group is killed", || {
        status = victim.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)), Some(9));
}

#[test]
fn the_kernel_kills_the_first_process_without_a_sentinel() {
    let directory = tempfile::tempdir().unwrap();
    let agent = env!("CARGO_BIN_EXE_countersign-agent");
    let first = directory.path().join("first").display().to_string();
    let workload = format!("echo $$ > {first}.new; mv {first}.new {first}; exec sleep 100");
    let mut parent = Command::new("sh")
        .args(["-c", "\"$0\" exec-guard --parent $$ -- sh -c \"$1\" & wait", agent, &workload])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = pid_in(&directory.path().join("first"));
    assert!(state(first).is_some());
    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("the workload is killed", || state(first).is_none());
}
