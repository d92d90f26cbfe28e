//! The floor against a TPM of a few lines; `image-fast` runs it against swtpm.

use std::collections::BTreeMap;
use std::io;

use super::tpm::{Tpm, Transport};
use super::{BASE, COUNTER, FloorError, check, give_away, raise, read};

/// Keeps indices: attributes and value.
#[derive(Default)]
struct Model {
    indices: BTreeMap<u32, (u32, u64)>,
    highest: u64,
    owned: bool,
    /// The power goes after so many changes.
    changes_left: Option<u32>,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four"))
}

impl Model {
    fn answer(&mut self, command: &[u8]) -> Result<Vec<u8>, u32> {
        let (code, handle) = (number(command, 6), number(command, 10));
        // Past header, two handles and the password's area.
        let parameters = 10 + 8 + 4 + 9;
        if !matches!(code, 0x169 | 0x14e | 0x17a) {
            match &mut self.changes_left {
                Some(0) => return Err(0x100),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        let with_size = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
        match code {
            0x17a => {
                let values = [1, 0x200, u32::from(self.owned)];
                let rest = [6].into_iter().chain(values).flat_map(u32::to_be_bytes);
                Ok([0].into_iter().chain(rest).collect())
            }
            0x12a if self.owned => Err(0x9a2),
            0x12a => {
                let at = 10 + 4 + 4 + 9 + 2 + 2;
                self.indices.insert(number(command, at), (number(command, at + 6), 0));
                Ok(with_size(&[]))
            }
            0x122 if self.owned => Err(0x9a2),
            0x122 => {
                self.indices.remove(&number(command, 14));
                Ok(with_size(&[]))
            }
            0x129 => {
                self.owned = true;
                Ok(with_size(&[]))
            }
            _ => {
                let highest = self.highest;
                let (attributes, value) = self.indices.get_mut(&handle).ok_or(0x18b_u32)?;
                match code {
                    0x169 => {
                        let mut public = handle.to_be_bytes().to_vec();
                        public.extend([0, 0x0b]);
                        public.extend(attributes.to_be_bytes());
                        public.extend([0, 0, 0, 8]);
                        Ok([&(public.len() as u16).to_be_bytes()[..], &public, &[0, 0]].concat())
                    }
                    0x14e => Ok(with_size(&[&[0, 8][..], &value.to_be_bytes()].concat())),
                    0x134 => {
                        *value = if *attributes & 1 << 29 == 0 { highest + 1 } else { *value + 1 };
                        *attributes |= 1 << 29;
                        self.highest = *value;
                        Ok(with_size(&[]))
                    }
                    0x137 if *attributes & 1 << 11 != 0 => Err(0x148),
                    0x137 => {
                        let bytes = command[parameters + 2..parameters + 10].try_into().expect("eight");
                        *value = u64::from_be_bytes(bytes);
                        *attributes |= 1 << 29;
                        Ok(with_size(&[]))
                    }
                    0x138 => {
                        *attributes |= 1 << 11;
                        Ok(with_size(&[]))
                    }
                    other => panic!("command {other:#x}"),
                }
            }
        }
    }
}

impl Transport for &mut Model {
    fn exchange(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        assert_eq!(number(command, 2) as usize, command.len());
        let (code, body) = match self.answer(command) {
            Ok(body) => (0, body),
            Err(code) => (code, Vec::new()),
        };
        let mut answer = vec![0x80, 0x01];
        answer.extend((10 + body.len() as u32).to_be_bytes());
        answer.extend(u32::to_be_bytes(code));
        answer.extend(body);
        Ok(answer)
    }
}

#[test]
fn the_floor_begins_at_0_rises_and_never_falls() {
    // A used TPM: its counters do not begin at 1.
    let mut model = Model { highest: 41, ..Model::default() };
    let mut tpm = Tpm::new(&mut model);
    assert_eq!(read(&mut tpm).expect("read"), None);
    assert_eq!(check(&mut tpm, 1, false).expect("made"), 0);
    assert_eq!(raise(&mut tpm, 3).expect("raised"), 3);
    assert_eq!(raise(&mut tpm, 2).expect("stays"), 3);
    assert!(matches!(check(&mut tpm, 2, true), Err(FloorError::Below { number: 2, floor: 3 })));
    assert_eq!(check(&mut tpm, 3, true).expect("may start"), 3);
    // Nobody writes the beginning again.
    assert!(matches!(tpm.write(BASE, 0), Err(FloorError::Refused { .. })));
    assert_eq!(raise(&mut tpm, 1000).expect("bounded"), 3 + super::STEPS_MAX);
}

#[test]
fn data_without_a_floor_is_refused_and_so_is_a_strangers_index() {
    let mut model = Model::default();
    assert!(matches!(check(&mut Tpm::new(&mut model), 9, true), Err(FloorError::Missing)));
    check(&mut Tpm::new(&mut model), 1, false).expect("made");
    assert!(give_away(&mut Tpm::new(&mut model)).expect("given"));
    assert!(!give_away(&mut Tpm::new(&mut model)).expect("once"));
    assert!(Tpm::new(&mut model).undefine(COUNTER).is_err(), "anybody could remove the floor");
    model.indices.insert(COUNTER, (0x0004_0004, 9));
    assert!(matches!(check(&mut Tpm::new(&mut model), 9, true), Err(FloorError::Foreign(COUNTER))));
}

#[test]
fn a_cut_while_it_is_made_is_mended_by_the_next_start() {
    for changes in 0..5 {
        let mut model = Model { changes_left: Some(changes), ..Model::default() };
        assert!(check(&mut Tpm::new(&mut model), 1, false).is_err(), "{changes}");
        model.changes_left = None;
        assert_eq!(check(&mut Tpm::new(&mut model), 1, false).expect("mended"), 0, "{changes}");
    }
}

/// Answers as a broken TPM would.
struct Broken(Vec<u8>);

impl Transport for Broken {
    fn exchange(&mut self, _: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    for answer in
        [vec![], vec![0; 9], vec![0x80, 1, 0, 0, 0, 99, 0, 0, 0, 0], vec![0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0]]
    {
        assert!(matches!(check(&mut Tpm::new(Broken(answer)), 1, false), Err(FloorError::Answer(_))));
    }
}
