use super::*;

/// A rule from a text such as `allow c 1:3 rwm`, with `*` for any number.
pub(in crate::cgroup) fn rule(text: &str) -> DeviceRule {
    let words: Vec<_> = text.split(' ').collect();
    let [verdict, kind, numbers, access] = words[..] else { panic!("{text}") };
    let (major, minor) = numbers.split_once(':').unwrap();
    let kind = match kind {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Char,
        _ => panic!("{text}"),
    };
    DeviceRule {
        allow: verdict == "allow",
        kind,
        major: major.parse().ok(),
        minor: minor.parse().ok(),
        access: access.parse().unwrap(),
    }
}

fn boiled_down(rules: &[&str]) -> Vec<String> {
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    match allowed(&rules) {
        Ok(Allowed::Everything) => vec!["everything".to_owned()],
        Ok(Allowed::These(devices)) => devices.iter().map(ToString::to_string).collect(),
        Err(err) => vec![err.to_string()],
    }
}

#[test]
fn rules_boil_down_to_what_is_allowed() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("no rules", &[], &[]),
        ("all denied", &["deny a *:* rwm"], &[]),
        ("one device", &["deny a *:* rwm", "allow c 1:3 rw"], &["c 1:3 rw"]),
        ("no leading denial", &["allow c 1:3 rw"], &["c 1:3 rw"]),
        ("everything", &["deny a *:* rwm", "allow a *:* rwm"], &["everything"]),
        ("everything but mknod", &["allow a *:* rw"], &["b *:* rw", "c *:* rw"]),
        ("both kinds one by one", &["allow b *:* rwm", "allow c *:* rwm"], &["everything"]),
        ("accesses add up", &["allow c 1:3 r", "allow c 1:3 w"], &["c 1:3 rw"]),
        ("a late denial", &["allow c 1:3 rwm", "deny c 1:3 m"], &["c 1:3 rw"]),
        ("a late denial of all", &["allow c 1:3 rwm", "deny a *:* rwm"], &[]),
        (
            "a denial elsewhere",
            &["allow c 1:* rwm", "deny c 2:3 rwm", "deny b 1:3 rwm"],
            &["c 1:* rwm"],
        ),
        ("a denial of other access", &["allow c *:* m", "deny c 1:3 rw"], &["c *:* m"]),
        (
            "a hole",
            &["allow c 1:* rwm", "deny c 1:3 w"],
            &["device rule denies c 1:3 w, a part of c 1:* rwm that an earlier rule allows"],
        ),
        ("no access", &["allow c 1:3 "], &[]),
    ];
    for (name, rules, want) in cases {
        assert_eq!(boiled_down(rules), *want, "{name}");
    }
}

#[test]
fn numbers_the_kernel_does_not_have_are_refused() {
    for text in ["allow c 4096:0 rwm", "allow c 1:1048576 rwm", "deny b 4294967295:0 rwm"] {
        assert!(matches!(allowed(&[rule(text)]), Err(BadDeviceRule::Number { .. })), "{text}");
    }
    assert!("rx".parse::<DeviceAccess>().is_err());
}

#[test]
fn the_program_decides_as_the_rules_say() {
    let rules = ["allow c 1:3 rwm", "allow c 136:* rw", "allow b *:* m", "allow c 4095:1048575 r"];
    let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
    let some = program(&allowed(&rules).unwrap());
    let none = program(&allowed(&[]).unwrap());
    let all = program(&allowed(&[rule("allow a *:* rwm")]).unwrap());
    let (block, char) = (1, 2);
    let (m, r, w) = (1, 2, 4);
    let cases = [
        ("/dev/null", char, r | w, 1, 3, true),
        ("/dev/null as a block device", block, r | w, 1, 3, false),
        ("/dev/zero", char, r, 1, 5, false),
        ("a terminal", char, r | w, 136, 77, true),
        ("making a terminal", char, m, 136, 77, false),
        ("making a disk", block, m, 8, 0, true),
        ("reading a disk", block, r, 8, 0, false),
        ("making and reading a disk", block, m | r, 8, 0, false),
        ("the last number", char, r, 4_095, 1_048_575, true),
        ("the last number, writing", char, w, 4_095, 1_048_575, false),
    ];
    for (name, kind, access, major, minor, want) in cases {
        let context = [access << 16 | kind, major, minor];
        assert_eq!(interpret(&some, &context), Some(u64::from(want)), "{name}");
        assert_eq!(interpret(&none, &context), Some(0), "{name}, nothing allowed");
        assert_eq!(interpret(&all, &context), Some(1), "{name}, everything allowed");
    }
}

/// Runs a program on a context of three words; none if it jumps out of itself or uses what `program` never emits.
fn interpret(program: &[Instruction], context: &[u32; 3]) -> Option<u64> {
    let mut registers = [0_u64; 16];
    let mut place = 0_usize;
    loop {
        let instruction = program.get(place)?;
        let (into, from) =
            (usize::from(instruction.registers & 15), usize::from(instruction.registers >> 4));
        let number = u64::try_from(instruction.immediate).ok()?;
        let offset = usize::try_from(instruction.offset).ok()?;
        match instruction.code {
            0x61 if from == 1 => registers[into] = u64::from(*context.get(offset / 4)?),
            0xbf => registers[into] = registers[from],
            0xb7 => registers[into] = number,
            0x57 => registers[into] &= number,
            0x77 => registers[into] >>= number,
            0x55 if registers[into] != number => place += offset,
            0x55 => {}
            0x95 => return Some(registers[0]),
            _ => return None,
        }
        place += 1;
    }
}
