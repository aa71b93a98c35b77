//! Network namespaces with one interface each, on a bridge in a namespace of its own; this machine is
//! attached, too.
//!
//! Needs root, iproute2, and permission to create namespaces. Without them, tests print the reason and use
//! loopback addresses; with `PRB_TEST_NAMESPACES=1` they fail.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The benchmark network (RFC 2544), which is not routed.
const PREFIX: [u8; 2] = [198, 18];
/// A unique local network (RFC 4193); the bridge's part of it has /64 networks that are all on its link.
const PREFIX6: u16 = 0xfd18;
const IP: [&str; 4] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];

/// A bridge, this machine's interface on it, and namespaces. All are removed on drop.
pub struct Bridge {
    ip: &'static str,
    name: String,
    subnet: u8,
    namespaces: Vec<String>,
}

/// Whether this system has IPv6.
pub fn has_ipv6() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6")
        .is_ok_and(|text| text.trim() == "0")
}

/// Creates a bridge; says why where there can be none, or panics if the tests must have one.
pub fn bridge_or_loopback() -> Option<Bridge> {
    match Bridge::new() {
        Ok(bridge) => Some(bridge),
        Err(why) => {
            assert!(std::env::var("PRB_TEST_NAMESPACES").is_err(), "no network namespaces: {why}");
            eprintln!("no network namespaces, so on loopback addresses: {why}");
            None
        }
    }
}

/// Runs `ip`.
fn run(ip: &str, words: &str) -> Result<(), String> {
    let output = Command::new(ip).args(words.split_whitespace()).output();
    match output {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { stderr, .. }) => {
            Err(format!("ip {words}: {}", String::from_utf8_lossy(&stderr).trim().replace('\n', "; ")))
        }
        Err(error) => Err(format!("{ip}: {error}")),
    }
}

impl Bridge {
    /// Creates it, or returns why it cannot be created.
    pub fn new() -> Result<Self, String> {
        static MADE: AtomicU8 = AtomicU8::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let ip = IP.into_iter().find(|path| std::path::Path::new(path).exists());
        let ip = ip.ok_or("iproute2 is missing: run scripts/install-node-peer")?;
        let process = std::process::id();
        // By the process, because test binaries run at the same time; each has four subnets.
        let subnet = ((process % 60) * 4) as u8 + made;
        let mut bridge = Self { ip, name: format!("prb{process}-{made}"), subnet, namespaces: Vec::new() };
        bridge.build()?;
        Ok(bridge)
    }

    fn build(&mut self) -> Result<(), String> {
        let (name, hub) = (self.name.clone(), self.add_namespace("hub")?);
        // Without snooping, the bridge sends multicast (mDNS) to every interface.
        self.run(&format!("-n {hub} link add hub type bridge mcast_snooping 0"))?;
        self.run(&format!("-n {hub} link set hub up"))?;
        self.run(&format!("link add {name} type veth peer name here netns {hub}"))?;
        self.run(&format!("-n {hub} link set here master hub up"))?;
        self.run(&format!("addr add {}/24 dev {name}", self.address(1)))?;
        if has_ipv6() {
            self.run(&format!("addr add {}/48 dev {name} nodad", self.address6(0, 1)))?;
        }
        self.run(&format!("link set {name} up"))?;
        // Only this shows whether programs can be started in a namespace.
        self.run(&format!("netns exec {hub} true"))
    }

    fn run(&self, words: &str) -> Result<(), String> {
        run(self.ip, words)
    }

    fn add_namespace(&mut self, short: &str) -> Result<String, String> {
        let name = format!("{}-{short}", self.name);
        self.run(&format!("netns add {name}"))?;
        self.namespaces.push(name.clone());
        self.run(&format!("-n {name} link set lo up"))?;
        Ok(name)
    }

    /// Returns an address of the bridge's network; this machine has the first.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(PREFIX[0], PREFIX[1], self.subnet, host)
    }

    /// Returns an IPv6 address of the bridge's network, in one of its /64 networks.
    pub fn address6(&self, network: u16, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(PREFIX6, 0, u16::from(self.subnet), network, 0, 0, 0, host)
    }

    /// Adds a namespace without an interface.
    pub fn namespace(&mut self, short: &str) -> Namespace {
        let name = self.add_namespace(short).unwrap();
        Namespace { ip: self.ip, hub: format!("{}-hub", self.name), short: short.to_owned(), name }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Interfaces are removed with their namespaces.
        for name in self.namespaces.iter().rev() {
            if let Err(error) = self.run(&format!("netns del {name}")) {
                eprintln!("left behind: {error}");
            }
        }
    }
}

/// A namespace of a [`Bridge`].
#[derive(Clone)]
pub struct Namespace {
    ip: &'static str,
    hub: String,
    short: String,
    name: String,
}

impl Namespace {
    /// Returns the command prefix that starts a program in it.
    pub fn launcher(&self) -> [&str; 4] {
        [self.ip, "netns", "exec", &self.name]
    }

    fn run(&self, words: &str) {
        run(self.ip, words).unwrap();
    }

    /// Adds an interface with an address.
    pub fn plug(&self, address: Ipv4Addr) {
        let Self { hub, short, name, .. } = self;
        self.run(&format!("-n {name} link add eth0 type veth peer name {short} netns {hub}"));
        self.run(&format!("-n {name} addr add {address}/24 dev eth0"));
        self.run(&format!("-n {hub} link set {short} master hub up"));
        self.run(&format!("-n {name} link set eth0 up"));
    }

    /// Gives the interface further addresses, in CIDR notation.
    pub fn add_addresses(&self, addresses: impl IntoIterator<Item = String>) {
        let mut child = Command::new(self.ip)
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for address in addresses {
            // No duplicate address detection, during which an IPv6 address cannot be used.
            let nodad = if address.contains(':') { "nodad" } else { "" };
            writeln!(input, "addr add {address} dev eth0 {nodad}").unwrap();
        }
        drop(input);
        assert!(child.wait().unwrap().success());
    }

    /// Sends multicast through the interface where a program names none.
    pub fn route_multicast(&self) {
        self.run(&format!("-n {} route add 224.0.0.0/4 dev eth0", self.name));
    }

    /// Moves the calling thread into it: sockets that the thread makes from now on are the namespace's.
    pub fn enter(&self) {
        let file = std::fs::File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Removes the interface.
    pub fn unplug(&self) {
        self.run(&format!("-n {} link del eth0", self.name));
    }

    pub fn down(&self) {
        self.run(&format!("-n {} link set eth0 down", self.name));
    }

    pub fn up(&self) {
        self.run(&format!("-n {} link set eth0 up", self.name));
    }
}
