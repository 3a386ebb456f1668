//! Who a container runs as: the request's word, else the image's, made into numbers with the image's own passwd and
//! group files.
//!
//! A text of digits is a number and never a name (CVE-2016-3697), a number that does not fit is an error and never
//! another number (CVE-2024-40635) nor a name (CVE-2026-46680).

use super::accounts::{self, Group, User};
use cri_api::runtime::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use cri_spec::Identity;
use rustix::fs::{self, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Why nobody knows who a container is to run as.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("{what} {value} is no id")]
    NoId { what: &'static str, value: String },
    #[error("run_as_group without run_as_user or run_as_username")]
    GroupAlone,
    #[error("run_as_user and run_as_username exclude each other")]
    UserTwice,
    #[error("user {0:?} is not in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("group {0:?} is not in the image's /etc/group")]
    UnknownGroup(String),
    #[error("read /etc/{name} of the image")]
    Read { name: &'static str, source: io::Error },
    #[error("look into the image")]
    Root(#[source] io::Error),
}

/// What is asked for, as texts and numbers.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    user: Name,
    group: Option<Name>,
    supplementary: Vec<u32>,
    policy: SupplementalGroupsPolicy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Number(u32),
    Text(String),
}

/// The image's files, already parsed.
#[derive(Debug, Default)]
struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

/// Finds the numbers. `image_user` is the image's own `USER`; `lowers` its layers, topmost first.
pub(super) fn resolve(
    context: &LinuxContainerSecurityContext,
    image_user: &str,
    lowers: Vec<OwnedFd>,
) -> Result<Identity, IdentityError> {
    let wish = wish(context, image_user)?;
    let accounts = match sys::overlay::merged(lowers).map_err(IdentityError::Root)? {
        Some(root) => Accounts {
            users: accounts::users(&read(&root, "passwd")?),
            groups: accounts::groups(&read(&root, "group")?),
        },
        None => Accounts::default(),
    };
    decide(&wish, &accounts)
}

fn wish(context: &LinuxContainerSecurityContext, image_user: &str) -> Result<Wish, IdentityError> {
    let number = |what, value: i64| {
        accounts::id(&value.to_string())
            .ok_or_else(|| IdentityError::NoId { what, value: value.to_string() })
    };
    let supplementary = context
        .supplemental_groups
        .iter()
        .map(|group| number("supplemental_groups", *group))
        .collect::<Result<_, _>>()?;
    let asked_user = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(_), name) if !name.is_empty() => return Err(IdentityError::UserTwice),
        (Some(uid), _) => Some(Name::Number(number("run_as_user", uid.value)?)),
        (None, "") => None,
        (None, name) => Some(parse("run_as_username", name)?),
    };
    let asked_group = match &context.run_as_group {
        Some(gid) => Some(Name::Number(number("run_as_group", gid.value)?)),
        None => None,
    };
    let (user, group) = match (asked_user, asked_group) {
        (Some(user), group) => (user, group),
        (None, Some(_)) => return Err(IdentityError::GroupAlone),
        (None, None) => of_image(image_user)?,
    };
    Ok(Wish { user, group, supplementary, policy: context.supplemental_groups_policy() })
}

/// `user`, `user:group`, both by name or number; nothing is root.
fn of_image(text: &str) -> Result<(Name, Option<Name>), IdentityError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { Name::Number(0) } else { parse("user of the image", user)? };
    let group = match group {
        None | Some("") => None,
        Some(group) => Some(parse("group of the image", group)?),
    };
    Ok((user, group))
}

fn parse(what: &'static str, text: &str) -> Result<Name, IdentityError> {
    let numeric = text.bytes().all(|b| b.is_ascii_digit());
    match accounts::id(text) {
        Some(id) => Ok(Name::Number(id)),
        None if numeric => Err(IdentityError::NoId { what, value: text.to_owned() }),
        None => Ok(Name::Text(text.to_owned())),
    }
}

/// The pure part: the wish and the files make the numbers.
fn decide(wish: &Wish, accounts: &Accounts) -> Result<Identity, IdentityError> {
    let entry = match &wish.user {
        Name::Number(uid) => accounts.users.iter().find(|user| user.uid == *uid),
        Name::Text(name) => Some(
            accounts
                .users
                .iter()
                .find(|user| user.name == *name)
                .ok_or_else(|| IdentityError::UnknownUser(name.clone()))?,
        ),
    };
    let uid = match (&wish.user, entry) {
        (Name::Number(uid), _) => *uid,
        (Name::Text(_), entry) => entry.map_or(0, |user| user.uid),
    };
    let gid = match &wish.group {
        Some(Name::Number(gid)) => *gid,
        Some(Name::Text(name)) => {
            let group = accounts.groups.iter().find(|group| group.name == *name);
            group.ok_or_else(|| IdentityError::UnknownGroup(name.clone()))?.gid
        }
        None => entry.map_or(0, |user| user.gid),
    };
    let mut groups = vec![gid];
    let mut add = |gid: u32| {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    };
    if wish.policy == SupplementalGroupsPolicy::Merge
        && let Some(user) = entry
    {
        accounts
            .groups
            .iter()
            .filter(|group| group.members.contains(&user.name))
            .for_each(|group| add(group.gid));
    }
    wish.supplementary.iter().copied().for_each(add);
    let home = entry.map(|user| user.home.clone()).filter(|home| home.starts_with('/'));
    Ok(Identity { uid, gid, groups, home: home.unwrap_or_else(|| "/".to_owned()) })
}

/// No passwd file of a sane image is larger.
const MOST_BYTES: u64 = 1 << 20;
/// How often a look-up that the kernel gave up is begun again; nobody can disturb it for longer.
const MOST_TRIES: u32 = 128;

/// A file of the image's `/etc`, found inside its root whatever links it has; nothing where there is none.
fn read(root: &OwnedFd, name: &'static str) -> Result<String, IdentityError> {
    let failed = |source| IdentityError::Read { name, source };
    // Opened for nothing but looking at first: the image may have a device here, and opening one is already an act.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = format!("etc/{name}");
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let mut tries = 0;
    let found = loop {
        match fs::openat2(root.as_fd(), &path, flags, Mode::empty(), resolve) {
            Ok(found) => break found,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
            // Something was renamed or mounted somewhere on the host while a `..` of a link was followed.
            Err(Errno::AGAIN) if tries < MOST_TRIES => tries += 1,
            Err(err) => return Err(failed(err.into())),
        }
    };
    let status = fs::fstat(&found).map_err(|err| failed(err.into()))?;
    let too_large = u64::try_from(status.st_size).map_or(true, |size| size > MOST_BYTES);
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || too_large {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "not a regular file of at most 1 MiB",
        )));
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = fs::openat(CWD, again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|err| failed(err.into()))?;
    let mut bytes = Vec::new();
    File::from(file).take(MOST_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri_api::runtime::v1::Int64Value;
    use rustix::fs::mknodat;

    fn accounts() -> Accounts {
        let passwd = "root:x:0:0::/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nweb:x:33:34::/srv:/x\n";
        let group = "web:x:34:\naudio:x:29:web,root\nstaff:x:50:web\n";
        Accounts { users: accounts::users(passwd), groups: accounts::groups(group) }
    }

    fn decided(
        context: &LinuxContainerSecurityContext,
        image_user: &str,
    ) -> Result<(u32, u32, Vec<u32>, String), String> {
        wish(context, image_user)
            .and_then(|wish| decide(&wish, &accounts()))
            .map(|who| (who.uid, who.gid, who.groups, who.home))
            .map_err(|err| err.to_string())
    }

    #[test]
    fn the_images_user() {
        let none = LinuxContainerSecurityContext::default();
        let cases = [
            ("nothing is root", "", Ok((0, 0, vec![0, 29], "/root"))),
            ("a name", "web", Ok((33, 34, vec![34, 29, 50], "/srv"))),
            ("digits are never a name", "1000", Ok((1000, 0, vec![0], "/"))),
            ("name and group", "web:staff", Ok((33, 50, vec![50, 29], "/srv"))),
            ("numbers", "5:6", Ok((5, 6, vec![6], "/"))),
            ("group alone", ":34", Ok((0, 34, vec![34, 29], "/root"))),
            ("unknown name", "nobody", Err("user \"nobody\" is not in the image's /etc/passwd")),
            ("unknown group", "web:x", Err("group \"x\" is not in the image's /etc/group")),
            ("no id", "4294967295", Err("user of the image 4294967295 is no id")),
            ("wraps", "4294967296", Err("user of the image 4294967296 is no id")),
            (
                "far too large",
                "100000000000000000000",
                Err("user of the image 100000000000000000000 is no id"),
            ),
        ];
        for (name, user, want) in cases {
            let want = want
                .map(|(uid, gid, groups, home)| (uid, gid, groups, home.to_owned()))
                .map_err(str::to_owned);
            assert_eq!(decided(&none, user), want, "{name}");
        }
    }

    #[test]
    fn the_requests_user_wins_and_policies_differ() {
        let mut context = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            supplemental_groups: vec![1234, 29],
            ..Default::default()
        };
        let merged = decided(&context, "root").unwrap();
        assert_eq!(merged, (33, 34, vec![34, 29, 50, 1234], "/srv".into()));
        context.supplemental_groups_policy = SupplementalGroupsPolicy::Strict as i32;
        context.run_as_group = Some(Int64Value { value: 7 });
        assert_eq!(decided(&context, "root").unwrap(), (33, 7, vec![7, 1234, 29], "/srv".into()));
        context.run_as_user = None;
        assert!(decided(&context, "root").unwrap_err().contains("run_as_group without"));
        context.run_as_user = Some(Int64Value { value: -1 });
        assert!(decided(&context, "root").unwrap_err().contains("no id"));
    }

    #[test]
    fn privileged_a_device_in_the_place_of_passwd_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        // No driver has this number: opening it would say ENXIO.
        let device = rustix::fs::makedev(240, 99);
        let passwd = dir.path().join("etc/passwd");
        mknodat(CWD, passwd, FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(dir.path(), flags, Mode::empty()).unwrap();
        let err = read(&root, "passwd").unwrap_err();
        let cause = std::error::Error::source(&err).unwrap().to_string();
        assert!(cause.contains("not a regular file"), "{cause}");
        assert_eq!(read(&root, "group").unwrap(), "");
    }
}
