//! The judges of what comes out: dciodvfy, dsrdump, highdicom, hl7apy.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::command::{program, python, run};
use crate::hospital::Hospital;

/// Panics unless dciodvfy and dsrdump accept the SR.
#[track_caller]
pub fn accept_sr(file: &Path) {
    let said = run(Command::new(program("dciodvfy")).arg("-new").arg(file));
    let all = said.all();
    assert!(all.contains("Comprehensive3DSR"), "dciodvfy took it for something else:\n{all}");
    let errors: Vec<&str> = all.lines().filter(|line| line.starts_with("Error")).collect();
    assert!(said.code == Some(0) && errors.is_empty(), "dciodvfy: {:?}\n{all}", said.code);
    let said = run(Command::new(program("dsrdump")).arg(file)).ok("dsrdump");
    // Debian's dcmtk cannot check the characters of some sets, and says so.
    let about_itself = |line: &str| {
        line.starts_with("W: The VR checker does not support this Specific Character Set")
            || line.starts_with("W: Reading unknown/unsupported SpecificCharacterSet")
    };
    let complaints: Vec<&str> = said
        .err
        .lines()
        .filter(|line| (line.starts_with("W:") || line.starts_with("E:")) && !about_itself(line))
        .collect();
    assert!(complaints.is_empty(), "dsrdump: {complaints:?}");
}

/// What highdicom reads in an SR.
#[track_caller]
pub fn groups(file: &Path) -> Value {
    let said = run(python("read_groups.py").arg(file)).ok("reading the SR with highdicom");
    serde_json::from_str(&said.out).expect("JSON")
}

/// Panics unless hl7apy validates the ORU at STRICT; yields what it read in it.
#[track_caller]
pub fn accept_oru(hospital: &Hospital, message: &[u8]) -> Value {
    let file = hospital.folder().join("judged.hl7");
    fs::write(&file, message).expect("written");
    let said = run(python("check_oru.py").arg(&file));
    assert_eq!(
        said.code,
        Some(0),
        "hl7apy: {}\n{}",
        said.all(),
        String::from_utf8_lossy(message).replace('\r', "\n")
    );
    serde_json::from_str(&said.out).expect("JSON")
}

/// Patient's name and character set of a file, raw and decoded by pydicom.
#[track_caller]
pub fn name_of(file: &Path) -> Value {
    let said = run(python("name.py").arg("show").arg(file)).ok("reading a name");
    serde_json::from_str(&said.out).expect("JSON")
}
