//! The owner's socket: equal answers, refusals, and deaths of either side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use csi_driver::owner::frame::{FrameKind, Hello, MAX_FRAME, read_frame, write_frame, write_json};
use csi_driver::owner::name::{Kind, Name};
use csi_driver::owner::output::Collected;
use csi_driver::owner::{Client, Command, Context, Event, Failure, Outcome, Server, run};
use storage_engine::{CreateRoot, Engine, Epoch, Options, Settings};

struct Store {
    directory: tempfile::TempDir,
    engine: Engine,
}

impl Store {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::open(directory.path(), Options::default()).unwrap();
        let settings = Settings {
            retain: Duration::from_secs(3600),
            ..Settings::default()
        };
        engine
            .create_root(CreateRoot {
                name: "bucket/default/base".into(),
                settings,
                ..CreateRoot::default()
            })
            .unwrap();
        Self { directory, engine }
    }

    fn data(&self) -> &Path {
        self.directory.path()
    }

    fn context(&self) -> Context {
        Context::alone(self.engine.clone(), self.data().to_owned())
    }

    fn serve(&self) -> Server {
        Server::start(self.data(), self.context()).unwrap()
    }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes(), "default", Epoch(u64::MAX / 2)).unwrap()
}

fn ask(data: &Path, command: &Command, input: &[u8]) -> (Outcome, Vec<Event>) {
    let mut events = Collected::default();
    let client = Client::connect(data).unwrap().expect("somebody listens");
    let outcome = client.run(command, &mut Cursor::new(input), &mut events);
    (outcome, events.0)
}

fn direct(store: &Store, command: &Command) -> (Outcome, Vec<Event>) {
    let mut events = Collected::default();
    let outcome = run(
        command,
        &store.context(),
        &mut std::io::empty(),
        &mut events,
    );
    (outcome, events.0)
}

fn put(text: &str) -> Command {
    Command::Put {
        name: name(text),
        mode: None,
        uid: 0,
        gid: 0,
    }
}

fn cat(text: &str) -> Command {
    Command::Cat {
        name: name(text),
        start: 0,
        length: None,
    }
}

fn bytes(events: &[Event]) -> Vec<u8> {
    events
        .iter()
        .flat_map(|event| {
            if let Event::Bytes(bytes) = event {
                bytes.clone()
            } else {
                Vec::new()
            }
        })
        .collect()
}

#[test]
fn answers_through_the_owner_equal_those_without_one() {
    let store = Store::new();
    let server = store.serve();
    let big: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for (path, content) in [
        ("base:/a", b"one".as_slice()),
        ("base:/dir/b", &big),
        ("base:/dir/empty", b""),
    ] {
        ask(store.data(), &put(path), content).0.unwrap();
    }
    let none = None;
    let steps = [
        Command::Snapshot {
            source: name("base"),
            name: "v1".into(),
            expires: none,
        },
        Command::Fork {
            source: name("snapshot/v1"),
            names: vec!["f-0".into(), "f-1".into()],
            read_only: false,
            quota_bytes: None,
            quota_inodes: None,
            expires: none,
        },
        Command::Rm {
            names: vec![name("fork/f-0:/a")],
            recursive: false,
            force: false,
        },
        Command::Restore {
            name: name("bucket/base"),
            to: name("v1"),
        },
    ];
    for step in &steps {
        ask(store.data(), step, b"").0.unwrap();
    }
    let questions = [
        Command::Ls {
            name: name("base"),
            recursive: true,
        },
        Command::Ls {
            name: name("snapshot/v1:/dir"),
            recursive: false,
        },
        Command::Ls {
            name: name("fork/f-0:/missing"),
            recursive: false,
        },
        cat("base:/dir/b"),
        Command::Cat {
            name: name("base:/dir/b"),
            start: 1_000_000,
            length: Some(777),
        },
        cat("base:/dir"),
        cat("nothing:/x"),
        Command::Log {
            name: name("base"),
            limit: None,
        },
        Command::Log {
            name: name("f-0"),
            limit: Some(1),
        },
        Command::Diff {
            from: None,
            to: name("fork/f-0"),
            path: None,
        },
        Command::Diff {
            from: Some(name("snapshot/v1")),
            to: name("fork/f-1"),
            path: None,
        },
        Command::Du {
            names: vec![],
            namespace: None,
        },
        Command::Tree {
            name: None,
            namespace: None,
        },
        Command::Get {
            kind: Kind::Fork,
            name: None,
            namespace: None,
        },
        Command::Get {
            kind: Kind::Snapshot,
            name: Some("v1".into()),
            namespace: Some("default".into()),
        },
        Command::Check,
    ];
    let through: Vec<_> = questions
        .iter()
        .map(|question| ask(store.data(), question, b""))
        .collect();
    server.stop(Duration::from_secs(5));
    assert!(
        Client::connect(store.data()).unwrap().is_none(),
        "nobody listens any more"
    );
    for (question, (outcome, events)) in questions.iter().zip(through) {
        let (expected, mut expected_events) = direct(&store, question);
        assert_eq!(outcome, expected, "{question:?}");
        // Bytes may be cut differently; progress is not part of the answer.
        let mut events = events;
        for list in [&mut events, &mut expected_events] {
            list.retain(|event| !matches!(event, Event::Bytes(_) | Event::Progress(_)));
            // A check says at which instant it looked.
            for event in list.iter_mut() {
                if let (Event::Begin(fields), Command::Check) = (event, question) {
                    fields.remove("epoch");
                }
            }
        }
        assert_eq!(events, expected_events, "{question:?}");
    }
    let (_, events) = direct(&store, &cat("base:/dir/b"));
    assert_eq!(bytes(&events), big);
}

#[test]
fn a_put_that_is_cut_off_leaves_the_old_file() {
    let store = Store::new();
    let server = store.serve();
    ask(store.data(), &put("base:/file"), b"old").0.unwrap();
    // The asker dies in the middle.
    let mut stream = UnixStream::connect(store.data().join("owner.sock")).unwrap();
    write_json(&mut stream, FrameKind::Hello, &Hello::own()).unwrap();
    assert_eq!(
        read_frame(&mut stream).unwrap().unwrap().0,
        FrameKind::Hello
    );
    write_json(&mut stream, FrameKind::Command, &put("base:/file")).unwrap();
    write_frame(&mut stream, FrameKind::Data, &[b'x'; 100_000]).unwrap();
    drop(stream);
    // The asker's own input fails.
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0 == 0 {
                return Err(std::io::Error::other("the disk is gone"));
            }
            self.0 -= 1;
            buffer.fill(b'y');
            Ok(buffer.len())
        }
    }
    let client = Client::connect(store.data()).unwrap().unwrap();
    let failure = client
        .run(
            &put("base:/file"),
            &mut Failing(3),
            &mut Collected::default(),
        )
        .unwrap_err();
    assert!(failure.message.contains("the disk is gone"), "{failure}");
    // The server gets to see the ends of both.
    std::thread::sleep(Duration::from_millis(300));
    let (outcome, events) = ask(store.data(), &cat("base:/file"), b"");
    outcome.unwrap();
    assert_eq!(bytes(&events), b"old");
    let (_, listed) = ask(
        store.data(),
        &Command::Ls {
            name: name("base"),
            recursive: true,
        },
        b"",
    );
    assert_eq!(
        listed
            .iter()
            .filter(|event| matches!(event, Event::Row(_)))
            .count(),
        1,
        "{listed:?}"
    );
    server.stop(Duration::from_secs(5));
}

#[test]
fn other_protocols_and_nonsense_are_refused_and_harm_nobody() {
    let store = Store::new();
    let server = store.serve();
    let socket = store.data().join("owner.sock");
    let mut stream = UnixStream::connect(&socket).unwrap();
    let hello = Hello {
        protocol: 99,
        ..Hello::own()
    };
    write_json(&mut stream, FrameKind::Hello, &hello).unwrap();
    let (kind, payload) = read_frame(&mut stream).unwrap().unwrap();
    assert_eq!(kind, FrameKind::Failed);
    let failure: Failure = serde_json::from_slice(&payload).unwrap();
    assert!(
        failure.message.contains("protocol 1") && failure.message.contains("99"),
        "{failure}"
    );

    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0, 0, 0, 0],
        &u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes(),
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    // An unknown command of a later version.
    let mut stream = UnixStream::connect(&socket).unwrap();
    write_json(&mut stream, FrameKind::Hello, &Hello::own()).unwrap();
    read_frame(&mut stream).unwrap();
    write_frame(&mut stream, FrameKind::Command, br#"{"command":"fly"}"#).unwrap();
    assert_eq!(
        read_frame(&mut stream).unwrap().unwrap().0,
        FrameKind::Failed
    );

    ask(store.data(), &put("base:/still"), b"works").0.unwrap();
    server.stop(Duration::from_secs(5));
}

#[test]
fn a_data_directory_with_a_long_path_works() {
    let top = tempfile::tempdir().unwrap();
    let data = top.path().join("x".repeat(120)).join("y".repeat(120));
    std::fs::create_dir_all(&data).unwrap();
    let engine = Engine::open(&data, Options::default()).unwrap();
    let server = Server::start(&data, Context::alone(engine, data.clone())).unwrap();
    ask(
        &data,
        &Command::Tree {
            name: None,
            namespace: None,
        },
        b"",
    )
    .0
    .unwrap();
    server.stop(Duration::from_secs(5));
}

#[test]
fn ambiguous_and_unknown_names_list_the_choices() {
    let store = Store::new();
    let snapshot = Command::Snapshot {
        source: name("base"),
        name: "base".into(),
        expires: None,
    };
    direct(&store, &snapshot).0.unwrap();
    let (outcome, _) = direct(
        &store,
        &Command::Ls {
            name: name("base"),
            recursive: false,
        },
    );
    let failure = outcome.unwrap_err();
    assert_eq!(failure.reason, "Ambiguous");
    assert!(
        failure.message.contains("bucket/base") && failure.message.contains("snapshot/base"),
        "{failure}"
    );
    let (outcome, _) = direct(
        &store,
        &Command::Ls {
            name: name("bass"),
            recursive: false,
        },
    );
    let failure = outcome.unwrap_err();
    assert_eq!(failure.reason, "NotFound");
    assert!(failure.next.unwrap().contains("bucket/base"));
}
