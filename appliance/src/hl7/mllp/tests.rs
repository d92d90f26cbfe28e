use super::*;
use crate::dicom::charset::Random;

const ACCEPTED: &[u8] = b"MSH|^~\\&|RIS|HOSP|LIGHTBOX|RAD|20260101||ACK^R01^ACK|X1|P|2.5.1\rMSA|AA|MSG1\r";

fn all_messages(decoder: &mut Decoder) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| decoder.next_message().unwrap()).collect()
}

#[test]
fn frames_are_found_however_they_are_cut() {
    let stream = b"junk\r\n\x0bMSH|one\r\x1c\x0d\r\n\x0bMSH|two\r\x1c\x0d";
    for chunk in 1..stream.len() {
        let mut decoder = Decoder::new(100);
        let mut messages = Vec::new();
        for part in stream.chunks(chunk) {
            decoder.push(part);
            messages.extend(all_messages(&mut decoder));
        }
        assert_eq!(messages, [b"MSH|one\r".to_vec(), b"MSH|two\r".to_vec()], "chunks of {chunk}");
    }
}

#[test]
fn a_second_start_block_begins_anew_and_a_lone_end_byte_is_content() {
    let mut decoder = Decoder::new(100);
    decoder.push(b"\x0bMSH|lost\x0bMSH|k\x1cept\r\x1c\x0d");
    assert_eq!(all_messages(&mut decoder), [b"MSH|k\x1cept\r".to_vec()]);
}

#[test]
fn a_frame_above_the_limit_is_refused_before_it_ends() {
    let mut decoder = Decoder::new(8);
    decoder.push(b"\x0b12345678\x1c\x0d\x0b123456789");
    assert_eq!(decoder.next_message().unwrap().unwrap(), b"12345678");
    assert!(matches!(decoder.next_message(), Err(MllpError::TooLarge { limit_bytes: 8 })));
    // What comes without a start block is not kept, however much it is.
    let mut decoder = Decoder::new(8);
    decoder.push(&[b'x'; 100]);
    assert_eq!(decoder.next_message().unwrap(), None);
    assert!(decoder.buffer.is_empty());
}

#[test]
fn a_message_with_framing_bytes_is_not_sent() {
    assert!(matches!(encode("MSH|\u{1c}\r"), Err(MllpError::FramingByte)));
    assert!(matches!(encode("\u{b}MSH|"), Err(MllpError::FramingByte)));
    assert_eq!(encode("MSH|é").unwrap(), b"\x0bMSH|\xc3\xa9\x1c\x0d");
}

fn ack(text: &str) -> Ack {
    parse(format!("MSH|^~\\&|RIS|HOSP|LIGHTBOX|RAD|20260101||ACK|X1|P|2.5.1\r{text}").as_bytes()).unwrap()
}

#[test]
fn acknowledgements_are_read_in_the_peers_own_separators() {
    let plain = parse(ACCEPTED).unwrap();
    assert_eq!(
        (plain.code, plain.control_id.expose().as_str(), plain.error_code),
        (AckCode::AA, "MSG1", None)
    );
    let odd = parse(b"\nMSH#*~\\&#RIS\r\nMSA# AE #MSG1 #bad PID###207*Application\r\n").unwrap();
    assert_eq!((odd.code, odd.error_code), (AckCode::AE, Some(207)));
    assert_eq!((odd.control_id.expose().as_str(), odd.text.expose().as_str()), ("MSG1", "bad PID"));
    let new =
        ack("MSA|AE|MSG1\rERR||PID^1^3|204^Unknown key identifier^HL70357|E||| no DOE^JANE | not found\r");
    assert_eq!(new.error_code, Some(204));
    assert_eq!(new.text.expose(), "no DOE^JANE; not found; Unknown key identifier");
    let old = ack("MSA|AR|MSG1|no\rERR|MSH^1^12^203&Unsupported version id&HL70357\r");
    assert_eq!(old.error_code, Some(203));
    assert!(!format!("{new:?}").contains("DOE"));
}

#[test]
fn what_is_no_acknowledgement_is_refused() {
    for bytes in
        [&b""[..], b"MSH", b"MSH|^~\\&|RIS\r", b"MSH|^~\\&\rMSA|ZZ|1\r", b"HTTP/1.1 400\r\n", b"\xff\xfe"]
    {
        assert!(matches!(parse(bytes), Err(MllpError::NotAnAcknowledgement(_))), "{bytes:?}");
    }
}

#[test]
fn dispositions_follow_the_policy() {
    let policy = AckPolicy::default();
    let dead = |text: &str| matches!(disposition(&ack(text), &policy), Disposition::DeadLetter(_));
    let retried = |text: &str| matches!(disposition(&ack(text), &policy), Disposition::Retry(_));
    assert_eq!(disposition(&ack("MSA|AA|1"), &policy), Disposition::Delivered);
    assert_eq!(disposition(&ack("MSA|CA|1"), &policy), Disposition::Delivered);
    assert!(dead("MSA|AE|1") && dead("MSA|CE|1"));
    assert!(retried("MSA|AR|1") && retried("MSA|CR|1") && retried("MSA|AR|1|||207"));
    for code in 200..=203 {
        assert!(dead(&format!("MSA|AR|1\rERR|||{code}^x|E")), "{code}");
        assert!(dead(&format!("MSA|CR|1||||{code}^x")), "{code}");
    }
    assert!(retried("MSA|AR|1\rERR|||204^x|E") && retried("MSA|AR|1\rERR|||199^x|E"));
    let strict = AckPolicy { on_ae: OnNegative::Retry, on_ar: OnNegative::DeadLetter, ..policy };
    assert!(matches!(disposition(&ack("MSA|AE|1"), &strict), Disposition::Retry(_)));
    assert!(matches!(disposition(&ack("MSA|AR|1"), &strict), Disposition::DeadLetter(_)));
    let awaiting = AckPolicy { await_application: true, ..policy };
    assert!(matches!(disposition(&ack("MSA|CA|1"), &awaiting), Disposition::Retry(_)));
    let Disposition::DeadLetter(reason) = disposition(&ack("MSA|AE|1|DOE^JANE||| 207"), &policy) else {
        panic!("an AE is a dead letter")
    };
    assert_eq!((reason.code.as_str(), reason.text.expose().as_str()), ("AE 207", "DOE^JANE"));
}

const MESSAGE: &str = "MSH|^~\\&|LIGHTBOX|RAD|RIS|HOSP|20260101||ORU^R01^ORU_R01|MSG1|P|2.5.1\rPID|1\r";
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_message_reaches_a_receiver_and_its_answer_comes_back() {
    let (mut ours, mut theirs) = tokio::io::duplex(7);
    let policy = AckPolicy::default();
    let (ack, received) = tokio::join!(
        send(&mut ours, MESSAGE, "MSG1", SECOND, &policy),
        serve_one(&mut theirs, 1000, SECOND, "20260101000000+0000", |message| {
            assert_eq!(message, MESSAGE);
            AckCode::AA
        })
    );
    assert_eq!(received.unwrap().expose(), MESSAGE);
    assert_eq!(ack.unwrap().code, AckCode::AA);
    let answer = acknowledgement(MESSAGE, AckCode::AR, "20260101000000+0000").unwrap();
    assert_eq!(
        answer,
        "MSH|^~\\&|RIS|HOSP|LIGHTBOX|RAD|20260101000000+0000||ACK^R01^ACK|AMSG1|P|2.5.1\rMSA|AR|MSG1\r"
    );
}

async fn answered(bytes: &[u8], policy: AckPolicy) -> Result<Ack, MllpError> {
    let (mut ours, mut theirs) = tokio::io::duplex(10_000);
    theirs.write_all(bytes).await.unwrap();
    send(&mut ours, MESSAGE, "MSG1", Duration::from_millis(50), &policy).await
}

#[tokio::test]
async fn only_an_answer_to_this_message_counts() {
    let policy = AckPolicy::default();
    let other = b"\x0bMSH|^~\\&|RIS\rMSA|AA|MSG2\r\x1c\x0d";
    assert!(matches!(answered(other, policy).await, Err(MllpError::WrongControlId)));
    assert!(matches!(
        answered(b"\x0bMSH|^~\\&|RIS\rMSA|AA|MSG1\r", policy).await,
        Err(MllpError::TimedOut(_))
    ));
    let (mut ours, theirs) = tokio::io::duplex(10_000);
    drop(theirs);
    assert!(send(&mut ours, MESSAGE, "MSG1", SECOND, &policy).await.is_err());
}

#[tokio::test]
async fn a_commit_acknowledgement_is_followed_by_the_applications_if_the_policy_waits() {
    let commit = b"\x0bMSH|^~\\&|RIS\rMSA|CA|MSG1\r\x1c\x0d";
    let both = [&commit[..], b"\x0bMSH|^~\\&|RIS\rMSA|AE|MSG1\r\x1c\x0d"].concat();
    let waits = AckPolicy { await_application: true, ..AckPolicy::default() };
    assert_eq!(answered(&both, AckPolicy::default()).await.unwrap().code, AckCode::CA);
    assert_eq!(answered(&both, waits).await.unwrap().code, AckCode::AE);
    assert!(matches!(answered(commit, waits).await, Err(MllpError::TimedOut(_))));
}

#[test]
fn mutated_streams_never_panic_and_keep_to_the_limit() {
    let mut random = Random(11);
    let seed = [b"\x0b", ACCEPTED, b"ERR|||207^x^HL70357|E\r", b"\x1c\x0d"].concat();
    for _ in 0..20_000 {
        let mut bytes = seed.repeat(1 + random.below(2));
        for _ in 0..1 + random.below(6) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, b"\x0b\x1c\x0d|^\\M&"[random.below(8)]),
                _ => bytes.rotate_left(at),
            }
        }
        let mut decoder = Decoder::new(150);
        for part in bytes.chunks(1 + random.below(40)) {
            decoder.push(part);
            while let Ok(Some(message)) = decoder.next_message() {
                assert!(message.len() <= 150);
                if let Ok(ack) = parse(&message) {
                    disposition(&ack, &AckPolicy::default());
                }
                // Whatever can be answered can be framed.
                if let Ok(answer) =
                    acknowledgement(&String::from_utf8_lossy(&message), AckCode::AA, "20260101")
                {
                    let _ = encode(&answer);
                    assert!(parse(answer.as_bytes()).is_ok());
                }
            }
        }
    }
}
