//! What the daemon may do: never more than at its start, and less once its sockets are bound.
//!
//! Credentials belong to threads in Linux. `setuid` and its like are called through the C library, which carries them to
//! every thread of the process (nptl(7)); "no new privileges" is inherited by threads, so it is set before there are any.

use std::ffi::CString;
use std::path::PathBuf;

use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, chdir, chroot, getgrouplist, getgroups, setgid, setgroups, setuid};
use vestibule::config::{Privileges, Problem};

use super::Error;

/// No program that this process starts, should it ever, can gain privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
/// To be called before any thread is started.
pub fn forbid_new() {
    if let Err(error) = nix::sys::prctl::set_no_new_privs() {
        tracing::warn!("no_new_privs is not set: {error}");
    }
}

/// Whom to become, looked up while `/etc/passwd` is in reach.
pub struct Target {
    name: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    chroot: Option<PathBuf>,
}

/// Looks the names up; `None` if the settings name no user.
///
/// # Errors
/// The inner ones are the configuration's fault, and will be after a restart; the outer ones the user database's.
pub fn look_up(settings: &Privileges) -> Result<Result<Option<Target>, Vec<Problem>>, Error> {
    let Some(wanted) = &settings.user else { return Ok(Ok(None)) };
    let (name, chroot) = (&wanted.name, &settings.chroot);
    let mut problems = Vec::new();
    let user = User::from_name(name)?;
    if user.is_none() {
        problems.push(wanted.at.problem(format!("user = {name}: no such user (getent passwd {name})")));
    }
    let group = match &settings.group {
        Some(wanted) => Group::from_name(&wanted.name)?.map(|group| group.gid),
        None => user.as_ref().map(|user| user.gid),
    };
    if let (Some(wanted), None) = (&settings.group, group) {
        let name = &wanted.name;
        problems.push(wanted.at.problem(format!("group = {name}: no such group (getent group {name})")));
    }
    if let (Some(directory), Some(_)) = (chroot, std::env::var_os("NOTIFY_SOCKET")) {
        let words = "chroot: the service manager's socket cannot be reached from inside; use RootDirectory= or \
                     ProtectSystem= in the unit instead";
        problems.push(directory.at.problem(words));
    }
    match (user, group) {
        (Some(user), Some(gid)) if problems.is_empty() => {
            let groups = getgrouplist(&CString::new(name.as_str())?, gid)?;
            let chroot = chroot.as_ref().map(|directory| directory.path.clone());
            Ok(Ok(Some(Target { name: name.clone(), uid: user.uid, gid, groups, chroot })))
        }
        _ => Ok(Err(problems)),
    }
}

/// Becomes the user, for ever.
pub fn drop_to(target: &Target) -> Result<(), Error> {
    if !Uid::effective().is_root() {
        return already(target);
    }
    // The rings' buffers are locked on the user's account from now on, and its limit is commonly too small for them.
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        tracing::warn!("the limit of locked memory stays as it is: {error}");
    }
    let failed = |what: &str, error: nix::Error| format!("cannot become user {}: {what}: {error}", target.name);
    if let Some(directory) = &target.chroot {
        chroot(directory.as_path()).map_err(|error| failed(&format!("chroot {}", directory.display()), error))?;
        chdir("/").map_err(|error| failed("chdir /", error))?;
    }
    // In this order: each step takes away the right to do the one before.
    setgroups(&target.groups).map_err(|error| failed("setgroups", error))?;
    setgid(target.gid).map_err(|error| failed("setgid", error))?;
    setuid(target.uid).map_err(|error| failed("setuid", error))?;
    if !target.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err("the privileges given up came back: the system does not keep its word".into());
    }
    tracing::info!("runs as user {} from now on", target.name);
    Ok(())
}

/// Who is not root can become nobody else; that he is already is as good.
fn already(target: &Target) -> Result<(), Error> {
    let (user, group) = (Uid::effective(), Gid::effective());
    let groups = getgroups()?;
    let missing = target.groups.iter().find(|wanted| **wanted != group && !groups.contains(wanted));
    let (setting, difference, unit) = if target.chroot.is_some() {
        ("chroot", format!("this is user id {user}"), "RootDirectory=")
    } else if user != target.uid {
        ("user", format!("this is user id {user}, and {} is {}", target.name, target.uid), "User=")
    } else if group != target.gid {
        ("group", format!("this is group id {group}, and user {} is to run with {}", target.name, target.gid), "Group=")
    } else if let Some(missing) = missing {
        ("user", format!("user {} is in group id {missing}, this process is not", target.name), "SupplementaryGroups=")
    } else {
        return Ok(());
    };
    Err(format!(
        "{setting}: only root may change it, {difference}; set {unit} in the unit, start as root, or remove the setting"
    )
    .into())
}
