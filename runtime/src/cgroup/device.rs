//! Which devices a cgroup may use: the rules, and the eBPF program that enforces them on v2.

use std::fmt;
use std::str::FromStr;
use sys::bpf::{Instruction, Operation, Register};

/// One rule of a list in which, for any device, the last rule that speaks of it decides. What no rule speaks of is
/// denied (GHSA-g54h-m393-cpwq: a list without a leading "deny all" must not mean "allow the rest").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether the rule grants access or takes it back.
    pub allow: bool,
    /// The kinds it speaks of.
    pub kind: DeviceKind,
    /// The major number; any if absent.
    pub major: Option<u32>,
    /// The minor number; any if absent.
    pub minor: Option<u32>,
    /// What it grants or takes back.
    pub access: DeviceAccess,
}

/// The kinds of devices that a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Block and character devices; OCI's "a".
    All,
    /// OCI's "b".
    Block,
    /// OCI's "c".
    Char,
}

/// What may be done with a device, written as in OCI: some of the letters `r`, `w` and `m`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceAccess(u8);

impl DeviceAccess {
    /// Making a node for it; `BPF_DEVCG_ACC_MKNOD`.
    pub const MKNOD: Self = Self(1);
    /// Opening it for reading; `BPF_DEVCG_ACC_READ`.
    pub const READ: Self = Self(2);
    /// Opening it for writing; `BPF_DEVCG_ACC_WRITE`.
    pub const WRITE: Self = Self(4);
    /// Everything.
    pub const ALL: Self = Self(7);

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A device rule that cannot be put in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDeviceRule {
    /// The text is not made of the letters `r`, `w` and `m`.
    #[error("device access must be made of the letters r, w and m, got {0:?}")]
    Access(String),

    /// The kernel has 12 bits for major and 20 for minor numbers.
    #[error("device {major:?}:{minor:?} does not exist: majors end at 4095, minors at 1048575")]
    Number {
        /// The major number.
        major: Option<u32>,
        /// The minor number.
        minor: Option<u32>,
    },

    /// A rule takes back a part of what an earlier one grants for a whole range of devices. cgroup v1 cannot say so and
    /// would silently allow the part, so it is refused, on v2 alike.
    #[error("device rule denies {denied}, a part of {granted} that an earlier rule allows")]
    Hole {
        /// The rule, in v1's form.
        denied: String,
        /// What the earlier rule granted, in v1's form.
        granted: String,
    },
}

/// What a list of rules comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    Everything,
    These(Vec<Device>),
}

/// Devices that may be used. `Display` gives v1's form: `c 1:3 rwm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    node: Node,
    major: Option<u32>,
    minor: Option<u32>,
    access: DeviceAccess,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Block,
    Char,
}

/// Boils `rules` down to what is allowed, so that the order no longer matters.
pub(super) fn allowed(rules: &[DeviceRule]) -> Result<Allowed, BadDeviceRule> {
    let mut granted: Vec<Device> = Vec::new();
    for rule in rules {
        let (major, minor) = (rule.major, rule.minor);
        if major.is_some_and(|major| major >= 1 << 12)
            || minor.is_some_and(|minor| minor >= 1 << 20)
        {
            return Err(BadDeviceRule::Number { major, minor });
        }
        let nodes: &[Node] = match rule.kind {
            DeviceKind::All => &[Node::Block, Node::Char],
            DeviceKind::Block => &[Node::Block],
            DeviceKind::Char => &[Node::Char],
        };
        for node in nodes {
            let device = Device { node: *node, major, minor, access: rule.access };
            if rule.allow { grant(&mut granted, device) } else { deny(&mut granted, device)? }
        }
    }
    let whole = |node| Device { node, major: None, minor: None, access: DeviceAccess::ALL };
    if granted.contains(&whole(Node::Block)) && granted.contains(&whole(Node::Char)) {
        return Ok(Allowed::Everything);
    }
    Ok(Allowed::These(granted))
}

fn grant(granted: &mut Vec<Device>, device: Device) {
    match granted.iter_mut().find(|known| known.same_numbers(&device)) {
        Some(known) => known.access = known.access.with(device.access),
        None => granted.push(device),
    }
    granted.retain(|device| device.access != DeviceAccess(0));
}

fn deny(granted: &mut Vec<Device>, denied: Device) -> Result<(), BadDeviceRule> {
    for known in granted.iter_mut() {
        if denied.covers(known) {
            known.access = known.access.without(denied.access);
        } else if denied.touches(known) {
            return Err(BadDeviceRule::Hole {
                denied: denied.to_string(),
                granted: known.to_string(),
            });
        }
    }
    granted.retain(|device| device.access != DeviceAccess(0));
    Ok(())
}

impl Device {
    fn same_numbers(&self, other: &Self) -> bool {
        (self.node, self.major, self.minor) == (other.node, other.major, other.minor)
    }

    /// Whether every device of `other` is one of these.
    fn covers(&self, other: &Self) -> bool {
        let covers = |own: Option<u32>, other: Option<u32>| own.is_none() || own == other;
        self.node == other.node
            && covers(self.major, other.major)
            && covers(self.minor, other.minor)
    }

    /// Whether a device of `other` is one of these, with some access in common.
    fn touches(&self, other: &Self) -> bool {
        let meet =
            |own: Option<u32>, other: Option<u32>| own.is_none() || other.is_none() || own == other;
        self.node == other.node
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && self.access.0 & other.access.0 != 0
    }
}

/// The program (`BPF_PROG_TYPE_CGROUP_DEVICE`) that lets a cgroup use `allowed` and nothing else.
///
/// ```text
///   context: u32 access << 16 | kind, u32 major, u32 minor      (struct bpf_cgroup_dev_ctx)
///   each device: does kind, access, major or minor differ? then the next one; otherwise return 1
///   at the end: return 0
/// ```
pub(super) fn program(allowed: &Allowed) -> Vec<Instruction> {
    let devices = match allowed {
        Allowed::Everything => return answer(1).to_vec(),
        Allowed::These(devices) => devices,
    };
    let mut program = vec![
        Instruction::load_word(KIND, Register::R1, 0),
        Instruction::copy(ACCESS, KIND),
        Instruction::compute(Operation::And, KIND, 0xffff),
        Instruction::compute(Operation::ShiftRight, ACCESS, 16),
        Instruction::load_word(MAJOR, Register::R1, 4),
        Instruction::load_word(MINOR, Register::R1, 8),
    ];
    for device in devices {
        program.extend(block(device));
    }
    program.extend(answer(0));
    program
}

const KIND: Register = Register::R2;
const ACCESS: Register = Register::R3;
const MAJOR: Register = Register::R4;
const MINOR: Register = Register::R5;
const SCRATCH: Register = Register::R0;

/// Returns 1 for `device`, goes on after itself for any other.
fn block(device: &Device) -> Vec<Instruction> {
    let kind = match device.node {
        Node::Block => 1,
        Node::Char => 2,
    };
    let mut checks = vec![(Vec::new(), KIND, kind)];
    let refused = DeviceAccess::ALL.without(device.access);
    if refused != DeviceAccess(0) {
        let mask = Instruction::compute(Operation::And, SCRATCH, i32::from(refused.0));
        checks.push((vec![Instruction::copy(SCRATCH, ACCESS), mask], SCRATCH, 0));
    }
    for (register, number) in [(MAJOR, device.major), (MINOR, device.minor)] {
        // `allowed` has seen to it that numbers have at most 20 bits.
        checks.extend(
            number
                .and_then(|number| i32::try_from(number).ok())
                .map(|number| (Vec::new(), register, number)),
        );
    }
    let mut block = answer(1).to_vec();
    for (before, register, number) in checks.into_iter().rev() {
        // At most ten instructions are behind, so the distance always fits.
        let distance = i16::try_from(block.len()).unwrap_or(i16::MAX);
        block.insert(0, Instruction::jump_unless_equal(register, number, distance));
        block.splice(0..0, before);
    }
    block
}

fn answer(number: i32) -> [Instruction; 2] {
    [Instruction::compute(Operation::Move, Register::R0, number), Instruction::exit()]
}

impl FromStr for DeviceAccess {
    type Err = BadDeviceRule;

    fn from_str(text: &str) -> Result<Self, BadDeviceRule> {
        text.chars().try_fold(Self(0), |access, letter| match letter {
            'r' => Ok(access.with(Self::READ)),
            'w' => Ok(access.with(Self::WRITE)),
            'm' => Ok(access.with(Self::MKNOD)),
            _ => Err(BadDeviceRule::Access(text.to_owned())),
        })
    }
}

impl fmt::Display for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (letter, access) in [("r", Self::READ), ("w", Self::WRITE), ("m", Self::MKNOD)] {
            if self.0 & access.0 != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for DeviceAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.node {
            Node::Block => 'b',
            Node::Char => 'c',
        };
        let number =
            |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(f, "{kind} {}:{} {}", number(self.major), number(self.minor), self.access)
    }
}

#[cfg(test)]
pub(super) mod tests;
