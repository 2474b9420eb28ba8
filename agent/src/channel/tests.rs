use super::Channel;
use crate::broker_client::BrokerError;
use crate::enroll::new_channel_key;

const CA: &str = include_str!("../../tests/data/ca.pem");

fn part(result: Result<Channel, BrokerError>) -> &'static str {
    match result {
        Err(BrokerError::Setup { part, .. }) => part,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_a_channel_is_refused_before_anything_is_sent() {
    let key = new_channel_key().unwrap();
    assert_eq!(part(Channel::new("http://broker", CA, CA, &key)), "URL");
    assert_eq!(part(Channel::new("https://", CA, CA, &key)), "URL");
    assert_eq!(part(Channel::new("https://broker", CA, "", &key)), "channel certificate");
    assert_eq!(part(Channel::new("https://broker", "", CA, &key)), "CA");
    assert_eq!(part(Channel::new("https://broker", CA, CA, &key)), "channel key", "a key of another certificate");
}
