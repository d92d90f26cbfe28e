//! A RIS that sends orders: Python's `hl7` client over Python's own TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::command::{python, run};
use crate::hospital::{Hospital, Identity};

/// A sender of orders.
#[derive(Clone, Debug)]
pub struct OrderSender {
    /// Its certificate.
    pub identity: Identity,
    folder: PathBuf,
    ca: PathBuf,
}

/// An acknowledgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// MSA-1.
    pub code: String,
    /// MSA-2.
    pub control_id: String,
    /// MSA-3.
    pub text: String,
}

impl OrderSender {
    /// A sender with a certificate that the site's authority issued.
    pub fn new(hospital: &Hospital) -> Self {
        let identity = hospital.issue("ris-orders");
        OrderSender { identity, folder: hospital.sub_folder("orders"), ca: hospital.ca() }
    }

    /// Sends messages over one connection, one after another; yields their acknowledgements.
    #[track_caller]
    pub fn send(&self, to: SocketAddr, messages: &[String]) -> Vec<Ack> {
        let mut command = python("send_orders.py");
        command
            .arg(to.port().to_string())
            .args([&self.identity.certificate, &self.identity.key])
            .arg(&self.ca);
        for (index, message) in messages.iter().enumerate() {
            let file = self.folder.join(format!("{index}.hl7"));
            fs::write(&file, message).expect("written");
            command.arg(file);
        }
        let said = run(&mut command).ok("sending orders");
        said.out
            .lines()
            .map(|line| {
                let ack: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
                let text = |name: &str| ack[name].as_str().unwrap_or_default().to_owned();
                Ack { code: text("code"), control_id: text("control_id"), text: text("text") }
            })
            .collect()
    }
}

/// An ORM^O01 with IHE's ZDS segment. `size` is the number of series and of instances to expect, where
/// the order tells.
pub fn orm(control_id: &str, study_uid: &str, priority: &str, size: Option<(u32, u32)>) -> String {
    let size = size.map(|(series, instances)| format!("||||{series}|{instances}")).unwrap_or_default();
    format!(
        "MSH|^~\\&|RIS|HOSPITAL|LIGHTBOX|RAD|20260101120000||ORM^O01|{control_id}|P|2.3.1\rPID|||4711^^^HOSPITAL||DOE^JANE\r\
         PV1||I\rORC|NW|PLACER{control_id}^RIS|FILLER{control_id}^RIS||||^^^20260101120000^^{priority}\r\
         OBR|1|PLACER{control_id}^RIS|FILLER{control_id}^RIS|CTHEAD^CT Head^L||||||||||||||ACC{control_id}||||||CT\r\
         ZDS|{study_uid}^Lightbox^Application^DICOM{size}\r"
    )
}
