//! The cache on disk under everything that can happen to a directory.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use lacuna_runtime::{Key, Store};

const CAP: u64 = 1 << 20;

fn key(name: &str) -> Key {
    Key::of(&[name.as_bytes()])
}

fn entry(store: &Store, name: &str) -> std::path::PathBuf {
    store.path(&key(name)).unwrap()
}

/// Whether this process may write where permissions forbid it.
fn is_root(dir: &Path) -> bool {
    fs::write(dir.join("probe"), b"").is_ok()
}

#[test]
fn what_is_put_is_got() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path(), CAP);
    assert_eq!(store.get(&key("a")), None);
    store.put(&key("a"), b"alpha");
    store.put(&key("empty"), b"");
    assert_eq!(store.get(&key("a")).unwrap(), b"alpha");
    assert_eq!(store.get(&key("empty")).unwrap(), b"");
    assert_eq!(Store::at(dir.path(), CAP).get(&key("a")).unwrap(), b"alpha", "another process finds it");
    assert_eq!(store.warnings(), Vec::<String>::new());
    let hex = key("a").hex();
    assert!(dir.path().join("v1/cubin").join(&hex[..2]).join(format!("{hex}.cubin")).is_file());
    assert_ne!(Key::of(&[b"ab", b"c"]), Key::of(&[b"a", b"bc"]), "parts do not run together");
}

#[cfg(unix)]
#[test]
fn the_directory_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lacuna");
    let store = Store::at(&root, CAP);
    store.put(&key("a"), b"alpha");
    for made in [root.as_path(), store.root().unwrap(), entry(&store, "a").parent().unwrap()] {
        assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700, "{}", made.display());
    }
    fs::set_permissions(store.root().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(store.get(&key("a")), None, "anybody could have planted it");
    store.put(&key("b"), b"beta");
    assert!(!entry(&store, "b").exists());
    let warnings = store.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("anybody may write to"), "{warnings:?}");
}

#[test]
fn a_store_that_is_off_holds_nothing() {
    let store = Store::off();
    store.put(&key("a"), b"alpha");
    assert_eq!((store.get(&key("a")), store.root(), store.size()), (None, None, 0));
    assert!(store.warnings().is_empty());
}

#[test]
fn damage_is_a_miss_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let content = b"the machine code of a kernel";
    let whole = {
        let store = Store::at(dir.path(), CAP);
        store.put(&key("a"), content);
        fs::read(entry(&store, "a")).unwrap()
    };
    let damaged = |bytes: &[u8]| {
        let store = Store::at(dir.path(), CAP);
        fs::write(entry(&store, "a"), bytes).unwrap();
        let miss = store.get(&key("a")).is_none();
        assert!(!entry(&store, "a").exists() && store.warnings()[0].contains("damaged"));
        store.put(&key("a"), content);
        assert_eq!(store.get(&key("a")).unwrap(), content);
        miss
    };
    for length in 0..whole.len() {
        assert!(damaged(&whole[..length]), "cut to {length} bytes");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(damaged(&flipped), "bit {bit} flipped");
    }
    assert!(damaged(&[&whole[..], &[0]].concat()), "a byte too many");
}

#[test]
fn the_least_recently_used_go_first() {
    let dir = tempfile::tempdir().unwrap();
    // Ten entries of a thousand bytes, headers included.
    let store = Store::at(dir.path(), 10_000);
    let content = [7; 1000 - 48];
    let age = |name: &str, minutes: u64| {
        let when = SystemTime::now() - Duration::from_secs(60 * minutes);
        fs::File::options().write(true).open(entry(&store, name)).unwrap().set_modified(when).unwrap();
    };
    for i in 0..10 {
        store.put(&key(&i.to_string()), &content);
        age(&i.to_string(), 100 - i);
    }
    assert_eq!(store.size(), 10_000);
    assert!(store.get(&key("0")).is_some(), "which makes it the latest used");
    store.put(&key("new"), &content);
    assert_eq!(store.size(), 9_000, "nine tenths of the cap");
    let kept: Vec<u64> = (0..10).filter(|i| entry(&store, &i.to_string()).exists()).collect();
    assert_eq!(kept, [0, 3, 4, 5, 6, 7, 8, 9]);
    assert!(entry(&store, "new").exists());
    store.put(&key("large"), &[0; 10_000]);
    assert!(!entry(&store, "large").exists(), "what does not fit is not kept");
    assert_eq!(store.size(), 9_000);
}

#[test]
fn what_dead_writers_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path(), 1);
    let large = Store::at(dir.path(), CAP);
    large.put(&key("a"), b"alpha");
    let shard = entry(&large, "a").parent().unwrap().to_owned();
    let (old, young) = (shard.join(".writing-old"), shard.join(".writing-young"));
    fs::write(&old, b"half").unwrap();
    fs::write(&young, b"half").unwrap();
    let hours = SystemTime::now() - Duration::from_secs(7200);
    fs::File::options().write(true).open(&old).unwrap().set_modified(hours).unwrap();
    assert_eq!(store.size(), 53);
    assert!(!old.exists() && young.exists());
}

#[test]
fn places_that_cannot_be_used_are_reported_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"not a directory").unwrap();
    let store = Store::at(&file, CAP);
    for _ in 0..3 {
        store.put(&key("a"), b"alpha");
        assert_eq!(store.get(&key("a")), None);
    }
    let warnings = store.warnings();
    assert!(warnings.len() == 1 && warnings[0].starts_with("compiled kernels are not kept: "), "{warnings:?}");
    // A directory where an entry should be.
    let store = Store::at(dir.path(), CAP);
    fs::create_dir_all(entry(&store, "a")).unwrap();
    store.put(&key("a"), b"alpha");
    assert_eq!(store.get(&key("a")), None);
    store.put(&key("b"), b"beta");
    assert_eq!(store.get(&key("b")).unwrap(), b"beta", "the rest works");
}

#[cfg(unix)]
#[test]
fn a_read_only_directory_is_still_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path(), CAP);
    store.put(&key("a"), b"alpha");
    let shard = entry(&store, "a").parent().unwrap().to_owned();
    let other = (0..).map(|i| i.to_string()).find(|name| entry(&store, name).parent() == Some(&shard)).unwrap();
    fs::set_permissions(&shard, fs::Permissions::from_mode(0o500)).unwrap();
    if !is_root(&shard) {
        store.put(&key(&other), b"other");
        assert_eq!(store.get(&key(&other)), None);
        assert!(store.warnings().len() == 1 && store.warnings()[0].contains("Permission denied"));
    }
    assert_eq!(store.get(&key("a")).unwrap(), b"alpha");
    fs::set_permissions(&shard, fs::Permissions::from_mode(0o700)).unwrap();
}

/// Many names, each with one content of its own length; every writer writes all, every reader finds whole ones.
fn hammer(root: &Path, seed: usize) {
    let store = Store::at(root, 60_000);
    for round in 0..200 {
        let i = (round * 7 + seed * 13) % 23;
        let content = vec![i as u8; 1000 + i * 200];
        if let Some(found) = store.get(&key(&i.to_string())) {
            assert_eq!(found, content);
        }
        store.put(&key(&i.to_string()), &content);
    }
    assert_eq!(store.warnings(), Vec::<String>::new());
}

#[test]
fn threads_and_processes_share_it() {
    const CHILD: &str = "LACUNA_TEST_STORE_CHILD";
    if let Some(root) = std::env::var_os(CHILD) {
        hammer(Path::new(&root), std::process::id() as usize);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let start = || {
        let args = ["--exact", "threads_and_processes_share_it"];
        Command::new(&test).args(args).env(CHILD, dir.path()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..4).map(|_| start()).collect();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let root = dir.path();
            scope.spawn(move || hammer(root, seed));
        }
    });
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let store = Store::at(dir.path(), 60_000);
    assert!(store.size() <= 60_000, "{}", store.size());
    let whole = (0..23).filter(|i| store.get(&key(&i.to_string())).is_some()).count();
    assert!(whole >= 8, "{whole}");
    assert!(store.warnings().is_empty());
}

/// A limit on file sizes stands in for a full disk, in a child process.
#[cfg(unix)]
#[test]
fn a_full_disk_is_reported_once_and_leaves_nothing() {
    const CHILD: &str = "LACUNA_TEST_STORE_FULL";
    if let Some(root) = std::env::var_os(CHILD) {
        let store = Store::at(&root, CAP);
        store.put(&key("small"), b"small");
        for name in ["a", "b", "c"] {
            store.put(&key(name), &[7; 100_000]);
            assert_eq!(store.get(&key(name)), None);
        }
        assert_eq!(store.get(&key("small")).unwrap(), b"small", "what was there is kept");
        let warnings = store.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("compiled kernels are not kept: "), "{warnings:?}");
        assert!(warnings[0].contains("File too large") && warnings[0].contains(".cubin"), "{warnings:?}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Without a trap the signal would end the child before the error does.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact a_full_disk_is_reported_once_and_leaves_nothing";
    let test = std::env::current_exe().unwrap();
    let out = Command::new("bash").args(["-c", script]).arg(test).env(CHILD, dir.path()).output().unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let store = Store::at(dir.path(), CAP);
    let all: Vec<_> = walk(store.root().unwrap());
    assert_eq!(all, [entry(&store, "small")], "no temporary file is left");
}

/// Every file under a folder.
#[cfg(unix)]
fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let each = fs::read_dir(dir).unwrap().map(|found| found.unwrap().path());
    each.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
