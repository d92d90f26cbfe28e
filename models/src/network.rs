//! What of a network's file may make the inference runtime read another file.
//!
//! An ONNX tensor can say that its values lie elsewhere (`data_location`, `external_data`), and ONNX Runtime then reads
//! any file below its working directory as weights: they would be covered by no digest, and what they hold could leave
//! the box as scores. So every network is walked before any runtime sees it. Only what leads to tensors is descended
//! into; the rest is passed over as bytes, so a network of any size costs one pass and no memory. Field numbers are
//! those of onnx.proto, [ONNX IR version 11](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

use std::io::{self, Cursor, Read};

/// Messages within messages: as many as protobuf's own readers take.
const DEPTH_MAX: usize = 100;
/// Longest name of an operator that is looked at.
const OPERATOR_MAX: u64 = 64;

/// Why a network was refused.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// Values of a tensor lie in another file.
    #[error(
        "at byte {0} a tensor says that its values lie in another file; remedy: save the model with all tensors inside (`save_as_external_data=False`)"
    )]
    ExternalData(u64),
    /// An operator that loads a compiled network from a file.
    #[error(
        "at byte {0} it has an EPContext operator, which loads another file; remedy: ship the network itself, the box compiles it"
    )]
    CompiledElsewhere(u64),
    /// Another format than ONNX.
    #[error("it is an ORT format file; remedy: ship the ONNX file that it was made from")]
    OrtFormat,
    /// No ONNX.
    #[error("at byte {0} it is no ONNX: {1}; remedy: export the model again")]
    Malformed(u64, &'static str),
    /// It could not be read to its end.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
}

impl NetworkError {
    /// A stable name of the broken clause, for audit records and tests.
    pub fn clause(&self) -> &'static str {
        match self {
            NetworkError::ExternalData(_) | NetworkError::CompiledElsewhere(_) => "network-external-data",
            NetworkError::OrtFormat | NetworkError::Malformed(..) => "network-format",
            NetworkError::Read(_) => "bundle-missing",
        }
    }
}

/// The messages of onnx.proto that lead to tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Training,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// What a field of it holds, if that leads to tensors.
    fn field(self, number: u64) -> Option<Message> {
        match (self, number) {
            (Message::Model, 7) | (Message::Training, 1 | 2) | (Message::Attribute, 6 | 11) => {
                Some(Message::Graph)
            }
            (Message::Model, 20) => Some(Message::Training),
            (Message::Model, 25) => Some(Message::Function),
            (Message::Function, 7) | (Message::Graph, 1) => Some(Message::Node),
            (Message::Function, 11) | (Message::Node, 5) => Some(Message::Attribute),
            (Message::Graph, 15) | (Message::Attribute, 22 | 23) => Some(Message::SparseTensor),
            (Message::Graph, 5) | (Message::Attribute, 5 | 10) | (Message::SparseTensor, 1 | 2) => {
                Some(Message::Tensor)
            }
            _ => None,
        }
    }
}

/// Walks a network in memory: see [`examine`].
pub fn check(network: &[u8]) -> Result<(), NetworkError> {
    examine(&mut Cursor::new(network))
}

/// Walks a network to its end, or to what is wrong with it.
pub fn examine(input: &mut impl Read) -> Result<(), NetworkError> {
    let mut start = Vec::with_capacity(8);
    input.by_ref().take(8).read_to_end(&mut start).map_err(NetworkError::Read)?;
    // A FlatBuffers identifier stands behind the first offset. Such a file can be valid protobuf as well.
    if start.get(4..8) == Some(b"ORTM") {
        return Err(NetworkError::OrtFormat);
    }
    if start.is_empty() {
        return Err(NetworkError::Malformed(0, "it is empty"));
    }
    let input = Cursor::new(start).chain(input);
    Walk { input, at: 0, buffered: Vec::new(), next: 0 }.walk()
}

struct Walk<R> {
    input: R,
    /// Bytes that were taken.
    at: u64,
    buffered: Vec<u8>,
    next: usize,
}

impl<R: Read> Walk<R> {
    fn walk(mut self) -> Result<(), NetworkError> {
        // The messages that are open, each with where it ends; the model ends with the file.
        let mut open = vec![(Message::Model, u64::MAX)];
        while let Some((message, end)) = open.last().copied() {
            if self.at == end {
                open.pop();
                continue;
            }
            let begin = self.at;
            let tag = match self.varint(end)? {
                Some(tag) => tag,
                None if message == Message::Model => return Ok(()),
                None => return Err(NetworkError::Malformed(begin, "it ends within a message")),
            };
            let number = tag >> 3;
            match tag & 7 {
                0 => {
                    let value = self.value(end)?;
                    if (message, number) == (Message::Tensor, 14) && value != 0 {
                        return Err(NetworkError::ExternalData(begin));
                    }
                }
                1 => self.skip(8, end)?,
                2 => {
                    let length = self.value(end)?;
                    if length > end - self.at {
                        return Err(NetworkError::Malformed(begin, "a field is longer than what holds it"));
                    }
                    if (message, number) == (Message::Tensor, 13) {
                        return Err(NetworkError::ExternalData(begin));
                    }
                    if (message, number) == (Message::Node, 4) && length <= OPERATOR_MAX {
                        if self.bytes(length)? == b"EPContext" {
                            return Err(NetworkError::CompiledElsewhere(begin));
                        }
                    } else if let Some(child) = message.field(number) {
                        if open.len() == DEPTH_MAX {
                            return Err(NetworkError::Malformed(begin, "messages are nested too deep"));
                        }
                        open.push((child, self.at + length));
                    } else {
                        self.skip(length, end)?;
                    }
                }
                5 => self.skip(4, end)?,
                _ => return Err(NetworkError::Malformed(begin, "a field has a type that ONNX does not use")),
            }
            if number == 0 || number > (1 << 29) - 1 {
                return Err(NetworkError::Malformed(begin, "a field has no valid number"));
            }
        }
        Ok(())
    }

    /// The next byte; none at the file's end.
    fn byte(&mut self) -> Result<Option<u8>, NetworkError> {
        if self.next == self.buffered.len() {
            self.buffered.clear();
            self.next = 0;
            let mut some = self.input.by_ref().take(1 << 16);
            some.read_to_end(&mut self.buffered).map_err(NetworkError::Read)?;
        }
        let byte = self.buffered.get(self.next).copied();
        self.next += usize::from(byte.is_some());
        self.at += u64::from(byte.is_some());
        Ok(byte)
    }

    /// A variable-length integer; none where the file ends before it.
    fn varint(&mut self, end: u64) -> Result<Option<u64>, NetworkError> {
        let begin = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            if self.at == end {
                return Err(NetworkError::Malformed(begin, "a number is longer than what holds it"));
            }
            let Some(byte) = self.byte()? else {
                return match shift {
                    0 => Ok(None),
                    _ => Err(NetworkError::Malformed(begin, "it ends within a number")),
                };
            };
            // Bits above the 64th are dropped, as protobuf's own readers do.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(NetworkError::Malformed(begin, "a number has more than ten bytes"))
    }

    fn value(&mut self, end: u64) -> Result<u64, NetworkError> {
        let begin = self.at;
        self.varint(end)?.ok_or(NetworkError::Malformed(begin, "it ends within a field"))
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, NetworkError> {
        let begin = self.at;
        let mut bytes = Vec::new();
        for _ in 0..length {
            bytes.push(self.byte()?.ok_or(NetworkError::Malformed(begin, "it ends within a field"))?);
        }
        Ok(bytes)
    }

    fn skip(&mut self, length: u64, end: u64) -> Result<(), NetworkError> {
        let begin = self.at;
        let ends = NetworkError::Malformed(begin, "it ends within a field");
        if length > end - self.at {
            return Err(ends);
        }
        let buffered = length.min((self.buffered.len() - self.next) as u64);
        self.next += buffered as usize;
        let rest = length - buffered;
        let skipped =
            io::copy(&mut self.input.by_ref().take(rest), &mut io::sink()).map_err(NetworkError::Read)?;
        self.at += buffered + skipped;
        if skipped < rest { Err(ends) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let length = bytes.len();
        let length =
            if length < 128 { vec![length as u8] } else { vec![length as u8 | 0x80, (length >> 7) as u8] };
        [&[number << 3 | 2][..], &length, bytes].concat()
    }

    /// A two-byte tag: fields from 16 on.
    fn far_field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[(number << 3 | 2) | 0x80, number >> 4, bytes.len() as u8][..], bytes].concat()
    }

    const ELSEWHERE: &[u8] = &[14 << 3, 1];

    #[test]
    fn a_tensor_elsewhere_is_found_wherever_it_hides() {
        let tensor = ELSEWHERE;
        let node = |attribute: &[u8]| field(1, &field(5, attribute));
        let sparse = |number| field(number, tensor);
        let places = [
            field(7, &field(5, tensor)),
            field(7, &field(15, &sparse(1))),
            field(7, &field(15, &sparse(2))),
            field(7, &node(&field(5, tensor))),
            field(7, &node(&field(10, tensor))),
            field(7, &node(&field(6, &field(5, tensor)))),
            field(7, &node(&field(11, &node(&field(5, tensor))))),
            field(7, &node(&far_field(22, &sparse(1)))),
            field(7, &node(&far_field(23, &sparse(1)))),
            far_field(20, &field(1, &field(5, tensor))),
            far_field(20, &field(2, &field(5, tensor))),
            far_field(25, &field(7, &field(5, &field(5, tensor)))),
            far_field(25, &field(11, &field(5, tensor))),
            field(7, &field(5, &field(13, b"x"))),
        ];
        for (number, network) in places.iter().enumerate() {
            let found = check(network).unwrap_err();
            assert_eq!(found.clause(), "network-external-data", "place {number}: {found}");
        }
        // The same numbers elsewhere, or the default said aloud, are harmless.
        check(&field(7, &field(5, &[14 << 3, 0]))).unwrap();
        check(&field(2, ELSEWHERE)).unwrap();
        check(&field(7, &field(13, b"x"))).unwrap();
    }

    #[test]
    fn what_loads_another_file_or_is_no_onnx_is_refused() {
        let context = field(7, &field(1, &field(4, b"EPContext")));
        assert_eq!(check(&context).unwrap_err().clause(), "network-external-data");
        check(&field(7, &field(1, &field(4, b"Conv")))).unwrap();
        for bytes in [&b""[..], b"\x12\0\0\0ORTM....", b"not a network", &[0x3a, 200], &[7 << 3 | 3], &[0; 9]]
        {
            assert_eq!(check(bytes).unwrap_err().clause(), "network-format", "{bytes:?}");
        }
    }

    #[test]
    fn nesting_has_an_end() {
        // A graph in an attribute of a node of a graph, and so on.
        let nested = |levels| {
            (0..levels).fold(Vec::new(), |inner: Vec<u8>, level| {
                let number: u8 = [1, 6, 5][level % 3];
                let length = inner.len() as u16;
                let varint = [(length & 0x7f) as u8 | 0x80, (length >> 7) as u8];
                [&[number << 3 | 2][..], &varint, &inner].concat()
            })
        };
        let model = |levels| {
            let graph = nested(levels);
            let varint = [(graph.len() & 0x7f) as u8 | 0x80, (graph.len() >> 7) as u8];
            [&[7 << 3 | 2][..], &varint, &graph].concat()
        };
        check(&model(31)).unwrap();
        let refused = check(&model(301)).unwrap_err();
        assert!(refused.to_string().contains("nested too deep"), "{refused}");
    }

    #[test]
    fn the_reference_network_passes_and_every_cut_of_it_is_read_to_its_end() {
        let network = include_bytes!("../reference/phantom-detector/bundle/model.onnx");
        check(network).unwrap();
        for cut in 0..network.len() {
            // A cut between two fields of the model is a shorter model; any other is refused; none panics.
            let _ = check(&network[..cut]);
        }
    }
}
