//! Sources that are in use while they are read, or cannot be read as they were found.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use crate::common::{Host, Ran, Serve, hash, names, random, run, unfinished};
use crate::relay::Lanes;
use crate::scene::{Deed, MIB, Scene, beside_the_content};

const FILE_MIB: u64 = 32;

/// A file is pushed over an older one, and while it is under way something is done to it.
#[track_caller]
fn push_while(deed: impl FnOnce(&Path), args: &[&str]) -> (Scene, Ran) {
    let scene = Scene::slow(FILE_MIB, 3e5);
    fs::write(scene.host.root("file"), b"old").unwrap();
    let mut push = scene.push(args);
    push.wait_for(MIB);
    deed(&scene.host.src("file"));
    scene.relay.pace(Lanes::All, 1e9);
    let ran = push.finish();
    (scene, ran)
}

/// Does each of `deeds` to a file that is under way, all of them at the same time.
fn for_each(deeds: &[Deed], check: impl Fn(&'static str, Scene, Ran) + Sync) {
    thread::scope(|scope| {
        for &(what, deed) in deeds {
            let check = &check;
            scope.spawn(move || {
                let (scene, ran) = push_while(deed, &[]);
                check(what, scene, ran);
            });
        }
    });
}

fn rewrite(path: &Path, seed: u64, bytes: u64) {
    fs::write(path, random(seed, bytes as usize)).unwrap();
}

#[test]
fn a_file_that_is_gone_while_it_is_sent_fails_alone_with_a_code_of_its_own() {
    let deeds: [Deed; 3] = [
        ("vanished", |path| fs::remove_file(path).unwrap()),
        ("changed", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("changed", |path| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("file", path).unwrap();
        }),
    ];
    for_each(&deeds, |kind, scene, ran| {
        assert_eq!(ran.code, 24, "{ran:?}");
        let summary = ran.summary();
        assert_eq!((&summary["failed"], &summary["files"]), (&1.into(), &0.into()), "{summary}");
        assert_eq!(summary[kind], 1, "{summary}");
        let failure = &summary["failures"][0];
        assert_eq!(failure["kind"], kind, "{summary}");
        assert!(failure["path"].as_str().unwrap().ends_with("src/file"), "{summary}");
        assert_eq!(fs::read(scene.host.root("file")).unwrap(), b"old");
        assert_eq!(names(&scene.host.root("")), ["file"]);
    });
}

#[test]
fn a_file_that_is_replaced_or_written_to_while_it_is_sent_arrives_as_it_is_in_the_end() {
    let deeds: [Deed; 4] = [
        ("truncated", |path| File::options().write(true).open(path).unwrap().set_len(MIB).unwrap()),
        ("appended to", |path| {
            File::options().append(true).open(path).unwrap().write_all(b"more").unwrap();
        }),
        ("rotated", |path| {
            fs::rename(path, path.with_extension("1")).unwrap();
            rewrite(path, 2, 100_000);
        }),
        ("renamed over, with size and time put back", |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let new = path.with_extension("new");
            rewrite(&new, 3, FILE_MIB * MIB);
            File::options().write(true).open(&new).unwrap().set_modified(modified).unwrap();
            fs::rename(&new, path).unwrap();
        }),
    ];
    for_each(&deeds, |what, scene, ran| {
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        assert_eq!(hash(&scene.host.src("file")), hash(&scene.host.root("file")), "{what}");
        assert_eq!(names(&scene.host.root("")), ["file"], "{what}");
        assert_eq!(ran.summary()["failed"], 0, "{what}: {ran:?}");
    });
}

#[test]
fn what_changes_beside_the_content_costs_nothing_that_was_sent() {
    for_each(&beside_the_content(), |what, scene, ran| {
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        assert_eq!(hash(&scene.host.src("file")), hash(&scene.host.root("file")), "{what}");
        let summary = ran.summary();
        assert_eq!(summary["sent_bytes"], FILE_MIB * MIB, "{what}: {summary}");
    });
}

/// Appends to a file until it is told to stop.
fn grow(path: PathBuf, stop: std::sync::mpsc::Receiver<()>) -> thread::JoinHandle<()> {
    let mut log = File::options().append(true).open(path).unwrap();
    thread::spawn(move || {
        while stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            log.write_all(b"a line\n").unwrap();
            thread::sleep(std::time::Duration::from_millis(1));
        }
    })
}

#[test]
fn a_log_that_only_grows_is_sent_as_it_was_found_where_that_is_asked_for() {
    for (args, code) in [(&["--growing-ok"][..], 0), (&[], 24)] {
        let (stop, stopped) = std::sync::mpsc::channel();
        let mut growing = None;
        let begin = |path: &Path| growing = Some(grow(path.to_owned(), stopped));
        let (scene, ran) = push_while(begin, args);
        drop(stop);
        growing.unwrap().join().unwrap();
        assert_eq!(ran.code, code, "{ran:?}");
        let there = fs::read(scene.host.root("file")).unwrap();
        if code == 0 {
            let found = (FILE_MIB * MIB) as usize;
            assert!(fs::read(scene.host.src("file")).unwrap()[..found] == there);
        } else {
            assert_eq!(there, b"old");
            assert_eq!(ran.summary()["changed"], 1, "{ran:?}");
        }
        assert_eq!(names(&scene.host.root("")), ["file"]);
    }
}

#[test]
fn a_log_that_is_rewritten_is_not_taken_for_one_that_grows() {
    // What was sent of it is overwritten, and more is appended.
    let (scene, ran) = push_while(|path| rewrite(path, 9, (FILE_MIB + 1) * MIB), &["--growing-ok"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(hash(&scene.host.src("file")), hash(&scene.host.root("file")));
}

/// Where it is, if it is there and its size is not what it has.
fn made_up(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    let content = fs::read(&path).ok()?;
    (content.len() as u64 != fs::metadata(&path).ok()?.len()).then_some(path)
}

/// The kernel's files have sizes that are not theirs, and some cannot be read at all.
#[test]
fn files_arrive_with_what_is_in_them_whatever_their_size_is_said_to_be() {
    let host = Host::new();
    let serve = Serve::start(&host);
    fs::write(host.src("good"), random(1, 300_000)).unwrap();
    fs::write(host.src("empty"), b"").unwrap();
    let files = [
        "/proc/version",
        "/proc/filesystems",
        "/proc/sys/kernel/ostype",
        "/sys/kernel/address_bits",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ];
    let mut sources: Vec<_> = files.into_iter().filter_map(made_up).collect();
    assert!(!sources.is_empty());
    sources.extend([host.src("good"), host.src("empty")]);
    let args: Vec<_> = sources.iter().map(|path| path.as_os_str()).collect();
    let ran = run(&mut host.pushing(&args, &serve.url("")));
    assert_eq!(ran.code, 0, "{ran:?}");
    for path in &sources {
        let there = host.root(path.file_name().unwrap());
        assert_eq!(fs::read(path).unwrap(), fs::read(&there).unwrap(), "{}", path.display());
    }
    let url = serve.url("");
    let verify = [&["--content-only".as_ref()], &args[..], &[url.as_ref()]].concat();
    let ran = host.verify(&verify);
    assert_eq!(ran.code, 0, "{ran:?}");
    // What cannot be read, or has no end, is named.
    let ran =
        run(&mut host.pushing(&["/proc/self/mem".as_ref(), "/proc/self/pagemap".as_ref()], &url));
    assert_eq!((ran.code, &ran.summary()["failed"]), (1, &2.into()), "{ran:?}");
    assert!(!host.root("mem").exists() && !host.root("pagemap").exists());
    assert!(unfinished(&host.root("")).is_empty());
}

#[test]
fn what_vanishes_while_the_source_is_looked_through_has_a_code_of_its_own() {
    let scene = Scene::slow(8, 3e5);
    let folder = scene.host.src("folder");
    fs::create_dir(&folder).unwrap();
    // So many that not all of them are found before the large file was sent.
    for number in 0..6_000 {
        fs::write(folder.join(number.to_string()), b"x").unwrap();
    }
    let sources = [scene.host.src("file"), folder.clone()];
    let args: Vec<_> = sources.iter().map(|path| path.as_os_str()).collect();
    let mut push = crate::scene::Push::start(&mut scene.relay.pushing(&scene.host, &args));
    push.wait_for(1);
    fs::remove_dir_all(&folder).unwrap();
    scene.relay.pace(Lanes::All, 1e9);
    let ran = push.finish();
    let summary = ran.summary();
    assert_eq!(ran.code, 24, "{summary}");
    assert_eq!(summary["failed"], summary["vanished"], "{summary}");
    assert_eq!(hash(&scene.host.src("file")), hash(&scene.host.root("file")));
}

#[test]
fn a_folder_on_the_way_to_a_source_that_becomes_a_link_leads_nowhere_else() {
    let scene = Scene::slow(FILE_MIB, 3e5);
    let (host, src) = (&scene.host, scene.host.dir.path().join("src"));
    fs::create_dir(host.src("tree")).unwrap();
    fs::rename(host.src("file"), host.src("tree/file")).unwrap();
    let outside = host.dir.path().join("elsewhere");
    fs::create_dir_all(outside.join("tree")).unwrap();
    for name in ["file", "tree/file"] {
        fs::write(outside.join(name), random(77, (FILE_MIB * MIB) as usize)).unwrap();
    }
    let there = |name: &str| host.root("").join(name);
    // The folder that is sent, and the one that it is in.
    for (folder, code) in [(host.src("tree"), 24), (src, 0)] {
        let away = folder.with_extension("away");
        let mut push =
            crate::scene::Push::start(&mut scene.relay.pushing(host, &[host.src("tree").as_ref()]));
        scene.relay.pace(Lanes::All, 3e5);
        push.wait_for(MIB);
        fs::rename(&folder, &away).unwrap();
        std::os::unix::fs::symlink(&outside, &folder).unwrap();
        scene.hurry();
        let ran = push.finish();
        fs::remove_file(&folder).unwrap();
        fs::rename(&away, &folder).unwrap();
        assert_eq!(ran.code, code, "{ran:?}");
        if code == 0 {
            assert_eq!(hash(&host.src("tree/file")), hash(&there("tree/file")));
        } else {
            assert_eq!(ran.summary()["failed"], ran.summary()["changed"], "{ran:?}");
            assert!(!there("tree/file").exists());
        }
    }
}

/// Has a folder and a link to another one change places until it is dropped.
struct Swapping {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Swapping {
    fn start(folder: PathBuf, link: PathBuf) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
                for _ in 0..2 {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let cwd = rustix::fs::CWD;
                    rustix::fs::renameat_with(cwd, &folder, cwd, &link, flags).unwrap();
                    thread::sleep(std::time::Duration::from_micros(200));
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().ok();
    }
}

#[test]
fn nothing_outside_is_read_while_a_folder_is_a_link_every_other_moment() {
    const FILES: u64 = 300;
    let host = Host::new();
    let serve = Serve::start(&host);
    let (folder, outside) = (host.src("tree/in"), host.dir.path().join("elsewhere"));
    for (seed, folder) in [(1, &folder), (2, &outside)] {
        fs::create_dir_all(folder).unwrap();
        for number in 0..FILES {
            fs::write(folder.join(number.to_string()), random(seed, 10_000)).unwrap();
        }
    }
    let link = host.dir.path().join("link");
    std::os::unix::fs::symlink(&outside, &link).unwrap();
    let ours = hash(&folder.join("0"));
    assert_eq!(host.push(host.src("tree"), &serve.url("all/")).code, 0);

    let swapping = Swapping::start(folder.clone(), link);
    for run_number in 0..3 {
        let top = format!("{run_number}");
        let ran = host.push(host.src("tree"), &serve.url(&format!("{top}/")));
        assert!([0, 24].contains(&ran.code), "{ran:?}");
        let arrived = names(&host.root(&top));
        for name in arrived.iter().filter(|name| name.starts_with("tree/in/")) {
            assert_eq!(hash(&host.root(&top).join(name)), ours, "{name}");
        }
        let ran = host.verify(&[
            "--content-only".as_ref(),
            host.src("tree").as_ref(),
            serve.url("all").as_ref(),
        ]);
        let findings = ran.findings();
        // In the folder, nothing differs: what cannot be read where it was is not compared.
        for (path, why) in findings.iter().filter(|(path, _)| path.contains("tree/in/")) {
            assert!(why.contains("vanished") || why.contains("taken its place"), "{path}: {why}");
        }
    }
    drop(swapping);
}
