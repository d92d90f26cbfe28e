//! An HL7 receiver over MLLP whose behaviour the test chooses, and may change while it runs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::port;

/// What it does with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Acknowledges: AA.
    Accept,
    /// The same after a while.
    AcceptAfter(Duration),
    /// Answers with this MSA-1 and text (MSA-3 and ERR-8).
    Answer(&'static str, &'static str),
    /// Reads and never answers.
    Hang,
    /// Closes the connection before answering.
    Close,
}

/// A message as it came, without the MLLP frame.
pub type Message = Vec<u8>;

/// The receiver.
pub struct MllpReceiver {
    /// Its port.
    pub port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    received: Arc<Mutex<Vec<Message>>>,
}

impl MllpReceiver {
    /// One that listens.
    pub fn start(behaviour: Behaviour) -> Self {
        let receiver = Self::down(behaviour);
        receiver.listen();
        receiver
    }

    /// One whose port is closed until [`Self::listen`].
    pub fn down(behaviour: Behaviour) -> Self {
        MllpReceiver {
            port: port::reserve(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            received: Arc::default(),
        }
    }

    /// Opens the port.
    pub fn listen(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is ours");
        let (behaviour, received) = (Arc::clone(&self.behaviour), Arc::clone(&self.received));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (behaviour, received) = (Arc::clone(&behaviour), Arc::clone(&received));
                thread::spawn(move || serve(stream, &behaviour, &received));
            }
        });
    }

    /// Changes what it does from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("whole") = behaviour;
    }

    /// What it has received so far, refused messages included.
    pub fn received(&self) -> Vec<Message> {
        self.received.lock().expect("whole").clone()
    }

    /// The same as text.
    pub fn texts(&self) -> Vec<String> {
        self.received().into_iter().map(|message| String::from_utf8(message).expect("UTF-8")).collect()
    }
}

/// A field of the first segment of that name: `field(message, "MSH", 10)`.
pub fn field(message: &str, segment: &str, number: usize) -> String {
    // In MSH the separator itself is field 1.
    let index = if segment == "MSH" { number - 1 } else { number };
    message
        .split('\r')
        .find(|line| line.split('|').next() == Some(segment))
        .and_then(|line| line.split('|').nth(index))
        .unwrap_or_default()
        .to_owned()
}

fn serve(mut stream: TcpStream, behaviour: &Mutex<Behaviour>, received: &Mutex<Vec<Message>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        while let Some(end) = bytes.windows(2).position(|pair| pair == [0x1c, 0x0d]) {
            let frame: Vec<u8> = bytes.drain(..end + 2).collect();
            let message = frame.strip_prefix(&[0x0b]).expect("a frame starts with VT");
            let message = message[..message.len() - 2].to_vec();
            let text = String::from_utf8_lossy(&message).into_owned();
            received.lock().expect("whole").push(message);
            // Not in the match itself, which would hold the lock while hanging.
            let now = behaviour.lock().expect("whole").clone();
            let (code, words) = match now {
                Behaviour::Accept => ("AA", ""),
                Behaviour::AcceptAfter(wait) => {
                    thread::sleep(wait);
                    ("AA", "")
                }
                Behaviour::Answer(code, words) => (code, words),
                Behaviour::Close => return,
                Behaviour::Hang => {
                    thread::sleep(Duration::from_secs(600));
                    return;
                }
            };
            let control = field(&text, "MSH", 10);
            let mut answer = format!(
                "\x0bMSH|^~\\&|RIS|HOSPITAL|LIGHTBOX||20250101000000||ACK^R01^ACK|A{control}|P|2.5.1\rMSA|{code}|{control}"
            );
            if code != "AA" {
                answer.push_str(&format!("|{words}\rERR||||E||||{words}"));
            }
            answer.push_str("\r\x1c\r");
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}
