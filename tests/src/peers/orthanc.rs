//! Orthanc with DICOM TLS: the PACS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::port;
use super::server::Server;
use crate::command::{program, run};
use crate::hospital::{Hospital, Identity};
use crate::wait;

/// A running Orthanc.
pub struct Orthanc {
    _server: Server,
    http: u16,
    folder: PathBuf,
    /// Its DICOM port.
    pub port: u16,
    /// Its certificate.
    pub identity: Identity,
}

/// Its AE title.
pub const AE_TITLE: &str = "ORTHANC";

impl Orthanc {
    /// Starts one that demands a certificate of the site's authority and calls itself [`AE_TITLE`].
    #[track_caller]
    pub fn start(hospital: &Hospital) -> Self {
        Self::start_with(hospital, &json!({}))
    }

    /// Starts one that knows us as `lightbox`, at this address: it can send to us, be asked to move to
    /// us, and ask us for storage commitment.
    #[track_caller]
    pub fn start_knowing(hospital: &Hospital, ours: SocketAddr) -> Self {
        let us = json!({
            "AET": crate::site::AE_TITLE, "Host": ours.ip().to_string(), "Port": ours.port(),
            "UseDicomTls": true, "LocalAet": AE_TITLE, "AllowStorageCommitment": true,
        });
        Self::start_with(hospital, &json!({ "lightbox": us }))
    }

    /// Starts one that offers DICOMweb at [`dicomweb`](Self::dicomweb), over plain HTTP.
    #[track_caller]
    pub fn start_with_dicomweb(hospital: &Hospital) -> Self {
        let plugin = ["/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins"]
            .map(|folder| Path::new(folder).join("libOrthancDicomWeb.so"))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("Orthanc's DICOMweb plugin is missing: ./justw peers installs it"));
        let more = json!({ "Plugins": [plugin], "DicomWeb": { "Enable": true, "Root": "/dicom-web/" } });
        Self::start_configured(hospital, &json!({}), &more)
    }

    /// The base URL of its DICOMweb service.
    pub fn dicomweb(&self) -> String {
        self.url("dicom-web")
    }

    #[track_caller]
    fn start_with(hospital: &Hospital, modalities: &Value) -> Self {
        Self::start_configured(hospital, modalities, &json!({}))
    }

    #[track_caller]
    fn start_configured(hospital: &Hospital, modalities: &Value, more: &Value) -> Self {
        let identity = hospital.issue("orthanc");
        let folder = hospital.sub_folder("orthanc");
        let (port, http) = (port::reserve(), port::reserve());
        let mut configuration = json!({
            "Name": "PACS", "StorageDirectory": folder.join("db"), "IndexDirectory": folder.join("db"),
            "HttpPort": http, "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
            "DicomPort": port, "DicomAet": AE_TITLE, "DicomCheckCalledAet": true,
            "DicomModalities": modalities,
            "DicomAlwaysAllowFind": true, "DicomAlwaysAllowGet": true, "DicomAlwaysAllowMove": true,
            "DicomAlwaysAllowStore": true, "DicomAlwaysAllowEcho": true, "DicomTlsEnabled": true,
            "DicomTlsCertificate": identity.certificate, "DicomTlsPrivateKey": identity.key,
            "DicomTlsTrustedCertificates": hospital.ca(), "DicomTlsRemoteCertificateRequired": true,
            "OverwriteInstances": false, "Plugins": [],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            configuration[key] = value.clone();
        }
        let path = folder.join("orthanc.json");
        fs::write(&path, configuration.to_string()).expect("written");
        let server =
            Server::start(Command::new(program("Orthanc")).arg(&path), http, &folder.join("orthanc.log"));
        let orthanc = Orthanc { _server: server, http, folder, port, identity };
        wait::until("Orthanc to answer", 30, || orthanc.try_get("system"), || "it does not");
        orthanc
    }

    fn try_get(&self, path: &str) -> Option<Value> {
        let said = run(Command::new(program("curl")).args(["-sSf", "--max-time", "20"]).arg(self.url(path)));
        (said.code == Some(0)).then(|| serde_json::from_str(&said.out).expect("Orthanc speaks JSON"))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.http)
    }

    /// Reads from its REST interface.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).unwrap_or_else(|| panic!("GET {path} failed"))
    }

    /// Writes to its REST interface.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let said = run(Command::new(program("curl"))
            .args(["-sSf", "--max-time", "60", "-d"])
            .arg(body.to_string())
            .arg(self.url(path)))
        .ok("a POST to Orthanc");
        serde_json::from_str(&said.out).expect("Orthanc speaks JSON")
    }

    /// Gives it a file.
    #[track_caller]
    pub fn upload(&self, file: &Path) {
        run(Command::new(program("curl"))
            .args(["-sSf", "--max-time", "60", "--data-binary"])
            .arg(format!("@{}", file.display()))
            .arg(self.url("instances")))
        .ok("an upload to Orthanc");
    }

    /// Every instance that it holds, as files of its own writing.
    pub fn download_all(&self) -> Vec<PathBuf> {
        let Value::Array(ids) = self.get("instances") else { panic!("not a list") };
        ids.iter()
            .map(|id| {
                let id = id.as_str().expect("an id");
                let file = self.folder.join(format!("{id}.dcm"));
                run(Command::new(program("curl"))
                    .args(["-sSf", "--max-time", "20", "-o"])
                    .arg(&file)
                    .arg(self.url(&format!("instances/{id}/file"))))
                .ok("downloading from Orthanc");
                file
            })
            .collect()
    }

    /// How many instances it holds.
    pub fn count(&self) -> usize {
        self.get("instances").as_array().map_or(0, Vec::len)
    }
}
