use dicom_ul::pdu::PresentationContextResultReason;

use super::*;

const LIMITS: Limits =
    Limits { max_pdu: 16_384, artim: Duration::from_secs(2), idle: Duration::from_secs(2), operations: 1 };
const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";

fn proposal() -> Vec<(String, Vec<String>)> {
    vec![(CT.into(), vec![EXPLICIT.into()]), ("1.2.3".into(), vec![EXPLICIT.into()])]
}

#[tokio::test]
async fn a_message_with_a_data_set_arrives_whole_in_the_accepted_context() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let sender = tokio::spawn(async move {
        let mut association =
            Association::request(theirs, "SCU", "SCP", &proposal(), LIMITS).await.expect("accepted");
        let context = association.context_for(CT, EXPLICIT).expect("accepted");
        assert_eq!(association.context_for("1.2.3", EXPLICIT), None);
        let command = Command {
            field: crate::dicom::dimse::C_STORE_RQ,
            message_id: 1,
            sop_class_uid: Some(CT.into()),
            has_data_set: true,
            ..Command::default()
        };
        association.send_command(context, &command).await.expect("sent");
        association.send_data_set(context, &vec![7; 100_000][..]).await.expect("sent");
        association.release().await.expect("released");
    });
    let requested = Requested::read(ours, LIMITS).await.expect("read");
    assert_eq!((requested.calling_ae(), requested.called_ae(), requested.fault()), ("SCU", "SCP", None));
    let mut association = requested
        .accept(|class, syntaxes| {
            if class == CT {
                Ok(syntaxes[0].clone())
            } else {
                Err(PresentationContextResultReason::AbstractSyntaxNotSupported)
            }
        })
        .await
        .expect("accepted");
    let Incoming::Command(context, command) = association.next().await.expect("a command") else {
        panic!("a command had to come")
    };
    assert!(command.has_data_set);
    let mut length = 0;
    loop {
        let (bytes, last) = association.fragment(context).await.expect("a fragment");
        length += bytes.len();
        if last {
            break;
        }
    }
    assert_eq!(length, 100_000);
    assert!(matches!(association.next().await, Ok(Incoming::Release)));
    association.answer_release().await.expect("answered");
    sender.await.expect("the sender's checks hold");
}

#[tokio::test]
async fn a_rejection_carries_its_three_numbers() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let acceptor = tokio::spawn(async move {
        Requested::read(ours, LIMITS).await.expect("read").reject(Rejection::CALLED_AE).await
    });
    let error =
        Association::request(theirs, "SCU", "WRONG", &proposal(), LIMITS).await.expect_err("rejected");
    assert!(matches!(error, AssociationError::Rejected(Rejection::CALLED_AE)), "{error}");
    assert!(error.to_string().contains("1/1/7"));
    acceptor.await.expect("joined").expect("sent");
}

#[tokio::test]
async fn roles_are_given_only_for_accepted_classes() {
    let (ours, theirs) = tokio::io::duplex(4096);
    let acceptor = tokio::spawn(async move {
        let requested = Requested::read(ours, LIMITS).await.expect("read");
        let judge = |class: &str, syntaxes: &[String]| {
            if class == CT {
                Ok(syntaxes[0].clone())
            } else {
                Err(PresentationContextResultReason::AbstractSyntaxNotSupported)
            }
        };
        let association =
            requested.accept_with_roles(judge, |_, proposed| Some(proposed)).await.expect("accepted");
        (association.roles(CT), association.roles("1.2.3"))
    });
    let wanted = [(CT.to_owned(), Roles::SCP), ("1.2.3".to_owned(), Roles::SCP)].into();
    let association = Association::request_with_roles(theirs, "SCU", "SCP", &proposal(), &wanted, LIMITS)
        .await
        .expect("accepted");
    assert_eq!((association.roles(CT), association.roles("1.2.3")), (Roles::SCP, Roles::DEFAULT));
    assert_eq!(acceptor.await.expect("joined"), (Roles::SCP, Roles::DEFAULT));
}

/// The windows of both ends, where the requestor asks for `asked` and the acceptor grants up to `most`.
async fn windows(asked: u16, most: u16) -> (usize, usize) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let acceptor = tokio::spawn(async move {
        let requested = Requested::read(ours, Limits { operations: most, ..LIMITS }).await.expect("read");
        requested.accept(|_, syntaxes| Ok(syntaxes[0].clone())).await.expect("accepted").window()
    });
    let limits = Limits { operations: asked, ..LIMITS };
    let association =
        Association::request(theirs, "SCU", "SCP", &proposal(), limits).await.expect("accepted");
    (association.window(), acceptor.await.expect("joined"))
}

#[tokio::test]
async fn both_ends_agree_on_how_many_operations_may_be_under_way() {
    assert_eq!(windows(1, 8).await, (1, 1));
    assert_eq!(windows(4, 8).await, (4, 4));
    assert_eq!(windows(16, 8).await, (8, 8));
    assert_eq!(windows(16, 1).await, (1, 1));
}

#[test]
fn a_window_is_never_wider_than_either_side_wants_and_nonsense_is_none() {
    use super::negotiation::{granted, window_of};
    use dicom_ul::pdu::UserVariableItem::Unknown;

    assert_eq!((granted(0, 8), granted(3, 8), granted(9, 8), granted(9, 0)), (8, 3, 8, 1));
    assert_eq!(window_of(&[Unknown(0x53, vec![0, 0, 0, 0])]), Some(0));
    assert_eq!(window_of(&[Unknown(0x53, vec![1, 2, 0, 1])]), Some(0x102));
    for odd in [vec![], vec![0], vec![0, 1, 0], vec![0, 1, 0, 1, 0]] {
        assert_eq!(window_of(&[Unknown(0x53, odd)]), None);
    }
    assert_eq!(window_of(&[Unknown(0x54, vec![0, 5, 0, 1])]), None);
}

async fn first_bytes(bytes: &[u8]) -> AssociationError {
    let (ours, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(bytes).await.expect("sent");
    let keep = theirs;
    let result = Requested::read(ours, Limits { artim: Duration::from_millis(200), ..LIMITS }).await;
    drop(keep);
    result.expect_err("must fail")
}

#[tokio::test]
async fn lying_lengths_and_foreign_bytes_are_refused_from_the_first_six_bytes() {
    let huge = [1, 0, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(first_bytes(&huge).await, AssociationError::PduTooLong { .. }));
    assert!(matches!(first_bytes(b"GET / HTTP/1.1\r\n").await, AssociationError::Malformed(b'G')));
    assert!(matches!(first_bytes(&[5, 0, 0, 0, 0, 9]).await, AssociationError::Malformed(5)));
    let data = [4, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 3];
    assert!(matches!(first_bytes(&data).await, AssociationError::Unexpected { .. }));
    // P-DATA-TF without a value, with one too short to be one, with one that is cut.
    for empty in
        [&[4, 0, 0, 0, 0, 0][..], &[4, 0, 0, 0, 0, 5, 0, 0, 0, 1, 1], &[4, 0, 0, 0, 0, 5, 0, 0, 0, 9, 1]]
    {
        assert!(matches!(first_bytes(empty).await, AssociationError::Malformed(4)), "{empty:?}");
    }
    assert!(matches!(first_bytes(&[1, 0]).await, AssociationError::Timeout(_)));
    // An A-ASSOCIATE-RQ whose sub-item claims more than there is.
    let mut lying = vec![1, 0, 0, 0, 0, 78, 0, 1, 0, 0];
    lying.extend([b' '; 32]);
    lying.extend([0; 32]);
    lying.extend([0x10, 0, 0xff, 0xff, 1, 2, 3, 4, 5, 6]);
    assert!(matches!(first_bytes(&lying).await, AssociationError::Malformed(1)));
}
