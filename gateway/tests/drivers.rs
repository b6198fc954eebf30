//! Machines without io_uring.

mod harness;

use std::io;

use harness::{Launch, Node, item};
use serde_json::json;

/// A cycle on one connection, and a long poll answered from another.
fn cycle(node: &Node) {
    let (mut worker, mut producer) = (node.connect(), node.connect());
    worker
        .send(&harness::Request::call("lease", &json!({"waitMs": 25_000})))
        .expect("the request is taken");
    producer.call("enqueue", item("users")).ok();
    let lease = worker.receive().expect("the poll is answered").ok();
    worker
        .call(
            "complete",
            json!({"ownershipToken": lease["ownershipToken"]}),
        )
        .ok();
    assert_eq!(node.counts(), [0; 4]);
}

/// What a child does before it becomes the node, to be one that the kernel refuses io_uring.
fn forbid_io_uring() -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).expect("an error number");
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a system call's number");
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("an instruction"),
        jt,
        jf,
        k,
    };
    let mut program = [
        // The number comes first in what a filter is given.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, setup),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ];
    move || {
        let filter = libc::sock_fprog {
            len: 4,
            filter: program.as_mut_ptr(),
        };
        // SAFETY: the program outlives the call, and prctl only reads it.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const filter,
                ) == 0
        };
        if installed {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

#[test]
fn epoll_serves_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).set("driver=epoll").start();
    cycle(&node);
    assert_eq!(node.admin("/omnirelay/introspect").1["driver"], "epoll");
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.said.contains("on epoll"), "{}", ended.said);
}

#[cfg(feature = "glommio")]
#[test]
fn glommio_serves_as_well() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).set("driver=glommio").start();
    cycle(&node);
    assert_eq!(node.admin("/omnirelay/introspect").1["driver"], "glommio");
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.said.contains("on glommio"), "{}", ended.said);
}

#[test]
fn a_node_whose_kernel_forbids_io_uring_falls_back_to_epoll_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    // SAFETY: the closure makes system calls only.
    let node = unsafe { Launch::on(dir.path()).before_exec(forbid_io_uring()) }.start();
    cycle(&node);
    node.kill();
    // SAFETY: as above.
    let node = unsafe { Launch::on(dir.path()).before_exec(forbid_io_uring()) }.start();
    cycle(&node);
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    assert!(ended.said.contains("on epoll"), "{}", ended.said);
}

#[test]
fn io_uring_that_is_required_and_forbidden_is_refused_at_the_start() {
    for setting in [
        "require_io_uring=true",
        "driver=io_uring",
        #[cfg(feature = "glommio")]
        "driver=glommio",
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        // SAFETY: the closure makes system calls only.
        let launch = unsafe {
            Launch::on(dir.path())
                .set(setting)
                .before_exec(forbid_io_uring())
        };
        launch.ended().refused(&["io_uring", "serve.start"]);
    }
}

#[test]
fn epoll_and_required_io_uring_contradict_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let ended = Launch::on(dir.path())
        .set("driver=epoll")
        .set("require_io_uring=true")
        .ended();
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    for word in ["driver", "require_io_uring", "contradicts"] {
        assert!(ended.said.contains(word), "{}", ended.said);
    }
}
