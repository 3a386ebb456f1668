use super::*;
use std::io::{Read, Seek};
use std::time::Duration;

fn log() -> (Log, std::fs::File) {
    let file = tempfile::tempfile().unwrap();
    (Log::new(Some(file.try_clone().unwrap().into())), file)
}

/// What is in the file, without the times.
fn records(mut file: std::fs::File) -> Vec<String> {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::new(1_475_713_029, 669_794_202)
}

#[test]
fn lines_become_records() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("one line", &["hello\n"], &["stdout F hello"]),
        ("two lines at once", &["a\nb\n"], &["stdout F a", "stdout F b"]),
        ("a line in pieces", &["he", "l", "lo\n"], &["stdout F hello"]),
        ("empty lines", &["\n\n"], &["stdout F ", "stdout F "]),
        ("spaces are kept", &["  a b \r\n"], &["stdout F   a b \r"]),
        ("the end within a line", &["a\nb"], &["stdout F a", "stdout P b"]),
        ("nothing", &[], &[]),
    ];
    for (name, pieces, want) in cases {
        let (mut log, file) = log();
        let mut stream = Stream::new("stdout");
        for piece in pieces {
            log.take(&mut stream, piece.as_bytes(), now());
        }
        log.end(&mut stream, now());
        let got: Vec<_> =
            records(file).into_iter().map(|line| line.trim_end_matches('\n').to_owned()).collect();
        let want: Vec<_> = want.iter().map(|line| line.trim_end_matches('\r')).collect();
        let got: Vec<_> = got.iter().map(|line| line.trim_end_matches('\r')).collect();
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn long_lines_are_cut_at_16_kib() {
    let cases = [
        ("just fits", MAX_LINE, vec![('F', MAX_LINE)]),
        ("one too long", MAX_LINE + 1, vec![('P', MAX_LINE), ('F', 1)]),
        (
            "two and a half",
            MAX_LINE * 5 / 2,
            vec![('P', MAX_LINE), ('P', MAX_LINE), ('F', MAX_LINE / 2)],
        ),
        ("three", MAX_LINE * 3, vec![('P', MAX_LINE), ('P', MAX_LINE), ('F', MAX_LINE)]),
    ];
    for (name, length, want) in cases {
        for piece in [100, 4096, 65_536] {
            let (mut log, file) = log();
            let mut stream = Stream::new("stderr");
            let line = [vec![b'x'; length], vec![b'\n']].concat();
            for piece in line.chunks(piece) {
                log.take(&mut stream, piece, now());
            }
            let got: Vec<_> = records(file)
                .iter()
                .map(|record| {
                    let content = record.strip_prefix("stderr ").unwrap();
                    (content.chars().next().unwrap(), content.len() - 2)
                })
                .collect();
            assert_eq!(got, want, "{name}, in pieces of {piece}");
        }
    }
}

#[test]
fn streams_do_not_mix_within_a_line() {
    let (mut log, file) = log();
    let (mut out, mut err) = (Stream::new("stdout"), Stream::new("stderr"));
    log.take(&mut out, b"be", now());
    log.take(&mut err, b"oops\n", now());
    log.take(&mut out, b"gin\n", now());
    assert_eq!(records(file), ["stderr F oops", "stdout F begin"]);
}

#[test]
fn a_reopened_log_goes_on_with_whole_records() {
    let (mut log, old) = log();
    let new = tempfile::tempfile().unwrap();
    let mut stream = Stream::new("stdout");
    log.take(&mut stream, b"one\ntw", now());
    log.reopen(new.try_clone().unwrap().into());
    log.take(&mut stream, b"o\n", now());
    assert_eq!(records(old), ["stdout F one"]);
    assert_eq!(records(new), ["stdout F two"]);
}

#[test]
fn what_cannot_be_written_is_counted_and_the_rest_goes_on() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut log = Log::new(Some(full.into()));
    let mut stream = Stream::new("stdout");
    log.take(&mut stream, b"lost\n", now());
    assert_eq!(log.take_failure(), Some(Errno::NOSPC));
    assert_eq!(log.lost(), "2016-10-06T00:17:09.669794202Z stdout F lost\n".len() as u64);
    log.take(&mut stream, b"lost\n", now());
    assert_eq!(log.take_failure(), None, "told once");
    let file = tempfile::tempfile().unwrap();
    log.reopen(file.try_clone().unwrap().into());
    log.take(&mut stream, b"kept\n", now());
    log.take(&mut stream, b"too\n", now());
    let missing =
        "stdout F berth: 90 bytes of log are missing here: No space left on device (os error 28)";
    assert_eq!(records(file), [missing, "stdout F kept", "stdout F too"]);
    assert_eq!(log.lost(), 90);
}

#[test]
fn times_are_utc_with_nanoseconds() {
    let cases = [
        (0, 0, "1970-01-01T00:00:00.000000000Z"),
        (1_475_713_029, 669_794_202, "2016-10-06T00:17:09.669794202Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
        (1_709_164_799, 999_999_999, "2024-02-28T23:59:59.999999999Z"),
        (4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
    ];
    for (seconds, nanos, want) in cases {
        assert_eq!(Timestamp::of(UNIX_EPOCH + Duration::new(seconds, nanos)).0, want);
    }
}
